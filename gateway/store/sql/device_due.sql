-- $1 now, $2 limit. Devices whose silence is to be looked at. `refused_until`: up to when not all that its customer sent was taken, for that was over a quota.
select s.customer_id, s.device_id, d.title, d.source, d.first_seen_at, s.last_seen_at, s.unheard, s.interval_seconds, s.intervals, s.is_watched, s.watched_at, s.silent_since,
       (select max(coalesce(q.ended_at, $1)) from quota_excess q
        where q.customer_id = s.customer_id and q.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')) as refused_until
from device_state s
cross join lateral (select * from device d where d.customer_id = s.customer_id and d.device_id = s.device_id limit 1) d
where s.due_at <= $1
order by s.due_at
limit $2
