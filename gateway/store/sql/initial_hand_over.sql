-- $1 connection. Windows that are still open at the end of the initial sync go on in the incremental one.
update due_window set phase = 'incremental' where connection_id = $1 and phase = 'initial'
