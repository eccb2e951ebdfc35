-- $1 customer, $2 connection, $3 stream, $4 phase, $5 how many records a person has to confirm (0: none).
update inbound_stream set vanished = $5::bigint where (customer_id, connection_id, stream, phase) = ($1, $2, $3, $4)
