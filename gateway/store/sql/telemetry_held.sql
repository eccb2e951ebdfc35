-- $1 customers, $2 devices, $3 times in microseconds since the epoch. Of these samples what is stored, and when it was received last.
select given.place, held.metrics, held.received_at
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as given (customer_id, device_id, ts, place)
cross join lateral (
    select metrics, received_at from telemetry
    where telemetry.customer_id = given.customer_id and telemetry.device_id = given.device_id and telemetry.ts = timestamptz 'epoch' + given.ts * interval '1 microsecond'
    limit 1
) held
