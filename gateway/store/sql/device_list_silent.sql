-- As device_list: $1 customer or null for all, $2 what id or title hold, $3 and $4 customer and device after which to go on, $5 limit. Of the silent ones alone, by
-- an index that holds no others.
select device.customer_id, device.device_id, device.title, device.source, device.first_seen_at, device_state.last_seen_at,
       device_state.last_sample_at, device_state.interval_seconds, device_state.silent_since,
       (select count(*) from jsonb_object_keys(device_state.metrics)) as metrics,
       (select sparkplug_device.offline_since from sparkplug_device
           where sparkplug_device.customer_id = device.customer_id and sparkplug_device.device_id = device.device_id limit 1) as offline_since
from device_state
join device on device.customer_id = device_state.customer_id and device.device_id = device_state.device_id
where device_state.silent_since is not null
  and device_state.customer_id >= coalesce($1::text, $3::text) and ($1::text is null or device_state.customer_id = $1)
  and (device_state.customer_id, device_state.device_id) > ($3::text, $4::text)
  and ($2::text is null or strpos(device.words, $2) > 0)
order by device_state.customer_id, device_state.device_id
limit $5
