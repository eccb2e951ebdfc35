-- $1 connection, $2 name, $3 cursor, $4 the cursor as it was read: a walk that was begun again meanwhile stays where it was begun.
-- $5 how many samples there are to walk in all, $6 how many of them are behind the cursor: about, and in one measure.
update stream set initial_cursor = $3, state = 'running', initial_started_at = coalesce(initial_started_at, now()),
                  initial_total = $5, initial_walked = $6
where (connection_id, name, phase) = ($1, $2, 'initial') and initial_cursor = $4
