-- $1 customer or null for all, $2 what id or title hold (in small letters; null: anything), $3 and $4 customer and device after which to go on, $5 limit, $6 whether
-- silent ones are left out.
-- $3 is $1 where that is given, so that the list begins with its customer.
select device.customer_id, device.device_id, device.title, device.source, device.first_seen_at, device_state.last_seen_at,
       device_state.last_sample_at, device_state.interval_seconds, device_state.silent_since,
       (select count(*) from jsonb_object_keys(device_state.metrics)) as metrics,
       (select sparkplug_device.offline_since from sparkplug_device
           where sparkplug_device.customer_id = device.customer_id and sparkplug_device.device_id = device.device_id limit 1) as offline_since
from device
left join device_state on device_state.customer_id = device.customer_id and device_state.device_id = device.device_id
where device.customer_id >= coalesce($1::text, $3::text) and device.customer_id <= coalesce($1::text, (select max(customer_id) from customer))
  and (device.customer_id, device.device_id) > ($3::text, $4::text)
  and ($2::text is null or strpos(device.words, $2) > 0)
  and (not $6::bool or device_state.silent_since is null)
order by device.customer_id, device.device_id
limit $5
