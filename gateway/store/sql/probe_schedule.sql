-- $1 connection, $2 the state that it was looked at in, $3 seconds to the next probe, $4 probes in a row that failed.
-- One that has moved meanwhile is due by its own move, and stays so.
update connection set probe_at = now() + in_seconds($3), probe_attempts = $4 where connection_id = $1 and state = $2
