-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 lease seconds. No row: the lease is lost.
update inbound_stream set lease_until = now() + in_seconds($6)
where (customer_id, connection_id, stream, phase, fence) = ($1, $2, $3, $4, $5)
returning true
