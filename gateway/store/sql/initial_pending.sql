-- $1 connection, $2 name. Whether the history is still on its way.
select exists (select from stream where (connection_id, name, phase) = ($1, $2, 'initial') and state <> 'done')
