-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence. The first step of a transaction that applies a page: while it lasts no other replica can take the
-- lease, and whoever ends the connection waits for us, or we for it.
select true from inbound_stream where (customer_id, connection_id, stream, phase, fence) = ($1, $2, $3, $4, $5) for no key update
