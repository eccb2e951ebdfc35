-- $1 connection, $2 name, $3 watermark, $4 where the log ends, which all devices are mapped up to; $5 connections that it was scanned for as well. In one order:
-- each is let go of at the commit, and whoever waits for one holds none that we want. By key: a stream whose lease was renewed while we waited is another row.
with places as materialized (
    select connection_id, name from stream
    where phase = 'incremental' and (connection_id = any($5) or (connection_id, name) = ($1, $2))
    order by connection_id, name
    for no key update
)
update stream s
set watermark = greatest(s.watermark, $3), device_watermark = greatest(s.device_watermark, $4),
    scanned_along_at = case when s.connection_id <> $1 and $3 >= $4 then now() else s.scanned_along_at end
from places
where s.connection_id = places.connection_id and s.name = places.name and s.phase = 'incremental'
