-- $1 and $2 customer and device after which to go on, $3 limit. Silent devices, by key.
select state.customer_id, state.device_id, device.title, device.source, state.last_seen_at, state.interval_seconds, state.silent_since, state.version
from device_state state
cross join lateral (select * from device where device.customer_id = state.customer_id and device.device_id = state.device_id limit 1) device
where state.silent_since is not null and (state.customer_id, state.device_id) > ($1, $2)
order by state.customer_id, state.device_id
limit $3
