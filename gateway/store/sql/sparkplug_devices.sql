-- $1 customers, $2 nodes, $3 devices, $4 ids, $5 births as JSON, $6 dead since, in microseconds since the epoch, or null.
insert into sparkplug_device as held (customer_id, node, device, device_id, births, offline_since)
select customer_id, node, device, device_id, births::jsonb, timestamptz 'epoch' + offline * interval '1 microsecond'
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[]) as given (customer_id, node, device, device_id, births, offline)
order by customer_id, node, device
on conflict (customer_id, node, device) do update
    set device_id = excluded.device_id, births = excluded.births, offline_since = excluded.offline_since
