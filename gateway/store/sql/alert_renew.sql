-- $1 connection, $2 fence, $3 lease seconds. No row: the lease is lost.
update alert_stream set lease_until = now() + in_seconds($3) where (connection_id, fence) = ($1, $2) returning true
