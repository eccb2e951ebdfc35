-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 position of the record log. A walk of all keys begins: what changes from now on is not missed by it.
update inbound_stream set walk_position = $6 where (customer_id, connection_id, stream, phase, fence) = ($1, $2, $3, $4, $5) returning true
