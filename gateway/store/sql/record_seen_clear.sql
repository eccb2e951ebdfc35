-- $1 customer, $2 connection, $3 stream. A walk begins anew, or is over.
delete from record_seen where (customer_id, connection_id, stream) = ($1, $2, $3)
