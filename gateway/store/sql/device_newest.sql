-- $1 customers, $2 devices. When the newest samples that are stored of each were received.
select g.customer_id, g.device_id, newest.received_at
from unnest($1::text[], $2::text[]) as g (customer_id, device_id)
cross join lateral (
    select max(received_at) as received_at
    from (select received_at from telemetry where telemetry.customer_id = g.customer_id and telemetry.device_id = g.device_id order by ts desc limit 5) latest
) newest
where newest.received_at is not null
