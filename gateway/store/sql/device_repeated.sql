-- $1 and $2 customer and device after which to go on, $3 limit. Silent devices, by key.
select s.customer_id, s.device_id, d.title, d.source, s.last_seen_at, s.interval_seconds, s.silent_since, s.version
from device_state s
cross join lateral (select * from device d where d.customer_id = s.customer_id and d.device_id = s.device_id limit 1) d
where s.silent_since is not null and (s.customer_id, s.device_id) > ($1, $2)
order by s.customer_id, s.device_id
limit $3
