-- Of each system that records are read from: how long ago the last interval was read whole, of the stream that is furthest behind.
select c.system, extract(epoch from now() - min(coalesce(s.last_success_at, s.began_at, now())))::float8 as seconds
from inbound_stream s join connection c using (connection_id)
where s.phase = 'incremental' and s.state <> 'off'
group by c.system
