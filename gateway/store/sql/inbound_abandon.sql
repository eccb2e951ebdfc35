-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence. The walk in hand is given up: the next one begins at its first page.
update inbound_stream set walk_low = null, walk_high = null, walk_cursor = null, walk_at = null, walk_pages = 0
where (customer_id, connection_id, stream, phase, fence) = ($1, $2, $3, $4, $5)
