-- $1 connection, $2 name, $3 phase, $4 fence. Holds the row until the transaction ends, so no other
-- replica can take the lease meanwhile; shared, for the scan and the delivery of one run go on side by side.
select watermark::text::bigint as watermark, device_watermark::text::bigint as device_watermark,
       initial_from, initial_cursor, initial_until
from stream
where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
for share
