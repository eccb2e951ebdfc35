-- $1 customer, $2 device.
select d.customer_id, d.device_id, d.title, d.source, d.first_seen_at, s.last_seen_at, s.last_sample_at, s.metrics, s.interval_seconds, s.silent_since,
       (select p.offline_since from sparkplug_device p where p.customer_id = d.customer_id and p.device_id = d.device_id limit 1) as offline_since
from device d left join device_state s on s.customer_id = d.customer_id and s.device_id = d.device_id
where d.customer_id = $1 and d.device_id = $2
