-- $1 limit. Devices whose retained document differs from what the broker has, the first that changed first. Empty where nothing has changed.
select s.customer_id, s.device_id, d.title, d.source, s.last_seen_at, s.interval_seconds, s.silent_since, s.version
from device_state s
cross join lateral (select * from device d where d.customer_id = s.customer_id and d.device_id = s.device_id limit 1) d
where s.told <> s.version
order by s.changed_at
limit $1
