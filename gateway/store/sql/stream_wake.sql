-- $1 connection. Its streams run again at once, with no failures counted.
update stream set next_run_at = now(), attempts = 0 where connection_id = $1 and state <> 'done'
