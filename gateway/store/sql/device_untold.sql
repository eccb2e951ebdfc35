-- $1 limit. Devices whose retained document differs from what the broker has, the first that changed first. Empty where nothing has changed.
select state.customer_id, state.device_id, device.title, device.source, state.last_seen_at, state.interval_seconds, state.silent_since, state.version
from device_state state
cross join lateral (select * from device where device.customer_id = state.customer_id and device.device_id = state.device_id limit 1) device
where state.told <> state.version
order by state.changed_at
limit $1
