-- $1 seconds. Streams of connections that are worked, which are due for longer and which nobody works on.
select s.connection_id, s.kind, extract(epoch from now() - s.next_run_at)::float8 as seconds, s.last_error
from (
    select connection_id, 'readings, ' || phase as kind, next_run_at, lease_until, last_error from stream where state <> 'done'
    union all
    select connection_id, 'records of ' || stream || ', ' || phase, next_run_at, lease_until, last_error from inbound_stream where state not in ('done', 'off')
    union all
    select connection_id, 'alerts', next_run_at, lease_until, null from alert_stream
) s
join connection c on c.connection_id = s.connection_id and c.state in ('active', 'degraded')
where s.next_run_at < now() - in_seconds($1) and coalesce(s.lease_until, '-infinity') < now()
order by s.next_run_at, s.connection_id
limit 200
