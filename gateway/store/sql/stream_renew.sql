-- $1 connection, $2 name, $3 phase, $4 fence, $5 lease seconds. No row: the lease is lost.
update stream set lease_until = now() + in_seconds($5)
where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
returning true
