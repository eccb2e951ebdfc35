-- $1 connection ids. Seconds until the next inbound stream of these may be claimed, null when none waits.
select extract(epoch from min(greatest(s.next_run_at, coalesce(s.lease_until, s.next_run_at))) - now())::float8
from inbound_stream s
join connection c using (connection_id)
where s.state not in ('done', 'off') and c.state in ('active', 'degraded') and s.connection_id = any($1)
