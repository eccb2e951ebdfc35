-- $1 now, $2 limit. Devices whose silence is to be looked at.
select s.customer_id, s.device_id, d.title, d.source, d.first_seen_at, s.last_seen_at, s.unheard, s.interval_seconds, s.intervals, s.is_watched, s.watched_at, s.silent_since
from device_state s
cross join lateral (select * from device d where d.customer_id = s.customer_id and d.device_id = s.device_id limit 1) d
where s.due_at <= $1
order by s.due_at
limit $2
