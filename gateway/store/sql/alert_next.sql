-- $1 connection ids. Seconds until the next stream of these may be claimed, null when none waits.
select extract(epoch from min(greatest(s.next_run_at, coalesce(s.lease_until, s.next_run_at))) - now())::float8
from alert_stream s
join connection c using (connection_id)
where c.state not in ('pending', 'disconnecting', 'disconnected') and s.connection_id = any($1)
