-- $1 connection, $2 name, $3 cursor.
update stream set initial_cursor = $3, state = 'running' where (connection_id, name, phase) = ($1, $2, 'initial')
