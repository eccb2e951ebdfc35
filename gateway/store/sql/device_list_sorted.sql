-- $1 customer, $2 what id or title hold (in small letters; null: anything), $3 what they are sorted by: 'name', 'last_seen', 'last_sample'; $4 whether the greatest
-- comes first, $5, $6 and $7 number, word and device after which to go on (the first page: a number that comes before any), $8 whether only silent ones are wanted,
-- $9 limit. The devices of the customer are compared, and of those that are shown the metrics counted. What was never seen counts as long ago.
select placed.*, (select count(*) from jsonb_object_keys(device_state.metrics)) as metrics,
       (select sparkplug_device.offline_since from sparkplug_device
           where sparkplug_device.customer_id = placed.customer_id and sparkplug_device.device_id = placed.device_id limit 1) as offline_since
from (
    select each_of.* from (
        select device.customer_id, device.device_id, device.title, device.source, device.first_seen_at, device_state.last_seen_at,
               device_state.last_sample_at, device_state.interval_seconds, device_state.silent_since,
               case $3::text when 'last_seen' then coalesce(extract(epoch from device_state.last_seen_at), 0)::float8
                             when 'last_sample' then coalesce(extract(epoch from device_state.last_sample_at), 0)::float8 else 0 end as number,
               case when $3 = 'name' then lower(coalesce(device.title, device.device_id)) else '' end as word
        from device
        left join device_state on device_state.customer_id = device.customer_id and device_state.device_id = device.device_id
        where device.customer_id = $1 and ($2::text is null or strpos(device.words, $2) > 0) and (not $8::bool or device_state.silent_since is not null)
    ) each_of
    where case when $4::bool then (number, word, device_id) < ($5::float8, $6::text, $7::text) else (number, word, device_id) > ($5, $6, $7) end
    order by case when $4 then number end desc, case when $4 then word end desc, case when $4 then device_id end desc, number, word, device_id
    limit $9
) placed
left join device_state on device_state.customer_id = placed.customer_id and device_state.device_id = placed.device_id
order by case when $4 then number end desc, case when $4 then word end desc, case when $4 then placed.device_id end desc, number, word, placed.device_id
