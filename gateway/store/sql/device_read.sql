-- $1 customer, $2 device.
select device.customer_id, device.device_id, device.title, device.source, device.first_seen_at, device_state.last_seen_at,
       device_state.last_sample_at, device_state.metrics, device_state.interval_seconds, device_state.silent_since,
       (select sparkplug_device.offline_since from sparkplug_device
           where sparkplug_device.customer_id = device.customer_id and sparkplug_device.device_id = device.device_id limit 1) as offline_since
from device left join device_state on device_state.customer_id = device.customer_id and device_state.device_id = device.device_id
where device.customer_id = $1 and device.device_id = $2
