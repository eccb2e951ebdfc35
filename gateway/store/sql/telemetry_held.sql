-- $1 customers, $2 devices, $3 times in microseconds since the epoch. Of these samples what is stored, and when it was received last.
select s.place, t.metrics, t.received_at
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as s (customer_id, device_id, ts, place)
cross join lateral (
    select metrics, received_at from telemetry t
    where t.customer_id = s.customer_id and t.device_id = s.device_id and t.ts = timestamptz 'epoch' + s.ts * interval '1 microsecond'
    limit 1
) t
