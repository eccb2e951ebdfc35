-- $1 connection, $2 name, $3 cursor, $4 the cursor as it was read: a walk that was begun again meanwhile stays where it was begun.
update stream set initial_cursor = $3, state = 'running'
where (connection_id, name, phase) = ($1, $2, 'initial') and initial_cursor = $4
