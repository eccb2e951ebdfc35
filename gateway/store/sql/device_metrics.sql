-- $1 customer, $2 what device, title or metric hold (in small letters; null: anything), $3 limit. Each metric with its last value.
select device.device_id, device.title, m.key as metric, m.value as entry
from device
join device_state on device_state.customer_id = device.customer_id and device_state.device_id = device.device_id
cross join lateral jsonb_each(device_state.metrics) m
where device.customer_id = $1 and ($2::text is null or strpos(device.words, $2) > 0 or strpos(lower(m.key), $2) > 0)
order by device.device_id, m.key
limit $3
