-- $1 connection, $2 seconds to the next probe, $3 probes in a row that failed.
update connection set probe_at = now() + make_interval(secs => $2), probe_attempts = $3 where connection_id = $1 and state <> 'disconnected'
