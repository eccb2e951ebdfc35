-- $1 connection ids. How far each phase of each inbound stream is.
select s.connection_id, s.stream, s.phase, s.state, s.attempts, s.high, s.origin, s.initial_days, s.read_records, s.walk_records, s.walk_total, s.vanished,
       s.last_error, s.last_success_at, s.next_run_at, coalesce(n.alive, 0) as alive,
       extract(epoch from now() - coalesce(s.last_success_at, s.began_at, now()))::float8 as lag_seconds,
       extract(epoch from now() - s.began_at)::float8 as running_seconds
from inbound_stream s
left join inbound_count n on (n.customer_id, n.connection_id, n.stream) = (s.customer_id, s.connection_id, s.stream)
where s.connection_id = any($1) and s.state <> 'off'
order by s.connection_id, s.stream, s.phase
