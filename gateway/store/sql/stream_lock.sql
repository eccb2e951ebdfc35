-- $1 connection, $2 name, $3 phase, $4 fence. Holds the row until the transaction ends, so no other replica can take the lease
-- meanwhile. Not shared: a scan moves the watermark at its end, and two that share the row would wait for each other there.
select watermark::text::bigint as watermark, device_watermark::text::bigint as device_watermark,
       initial_from, initial_cursor, initial_until
from stream
where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
for no key update
