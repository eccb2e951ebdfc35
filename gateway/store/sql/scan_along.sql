-- $1 customer, $2 past this position, $3 up to this one, $4 where the log ends, $5 connections beside the one that scans, $6 the configuration of which each
-- is served. Those that this slice can be scanned for as well, in order, and the position that each is scanned to: they have come as far as the
-- slice begins, their meters are in force, no device waits for its mappings. What is paused, blocked or behind catches up by itself and comes along then.
-- Until the transaction ends their meters stay as they are. Nobody is waited for: one whose meters are being changed does not come along.
select s.connection_id, s.watermark
from unnest($5::text[], $6::bigint[]) as beside (connection_id, configuration)
cross join lateral (select * from connection where connection_id = beside.connection_id and customer_id = $1 limit 1) c
join stream s on s.connection_id = beside.connection_id and s.phase = 'incremental'
where c.state in ('active', 'degraded') and s.meters_of = beside.configuration and s.watermark >= $2 and s.watermark < $3
  and not exists (select from device d where d.customer_id = $1 and d.revision > s.device_watermark and d.revision <= $4)
order by s.connection_id
for key share of s skip locked
