-- $1 connection ids. Seconds until the next stream of these may be claimed, null when none waits. What is due already has nothing to do: whether
-- something came for it is asked once a second.
select extract(epoch from min(at.next) - now())::float8
from alert_stream s
join connection c using (connection_id)
cross join lateral (select greatest(s.next_run_at, coalesce(s.lease_until, s.next_run_at)) as next) at
where c.state not in ('pending', 'disconnecting', 'disconnected') and s.connection_id = any($1) and at.next > now()
