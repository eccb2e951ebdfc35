-- $1 customer, $2 connection, $3 stream, $4 phase, $5 how many records a person has to confirm (0: none; what was confirmed is used up).
update inbound_stream set vanished = $5::bigint, may_vanish = may_vanish and $5 > 0 where (customer_id, connection_id, stream, phase) = ($1, $2, $3, $4)
