-- $1 connection ids. Seconds until the next stream of these may be claimed, null when none waits. What is due already has nothing to do: whether
-- something came for it is asked once a second.
select extract(epoch from min(at.next) - now())::float8
from alert_stream
join connection using (connection_id)
cross join lateral (select greatest(alert_stream.next_run_at, coalesce(alert_stream.lease_until, alert_stream.next_run_at)) as next) at
where connection.state not in ('pending', 'disconnecting', 'disconnected') and alert_stream.connection_id = any($1) and at.next > now()
