-- Of each connection that reads records: how long ago the last interval was read whole, of the stream that is furthest behind.
select connection_id, extract(epoch from now() - min(coalesce(last_success_at, began_at, now())))::float8 as seconds
from inbound_stream
where phase = 'incremental' and state <> 'off'
group by connection_id
