-- $1 customer, $2 connection, $3 meters, $4 window starts, $5 reasons, $6 details, $7 payloads (the reading as JSON), $8 digests.
insert into dead_letter as held (kind, digest, customer_id, connection_id, meter, window_start, reason, detail, payload)
select 'reading', digest, $1, $2, meter, window_start, reason, detail, payload
from unnest($3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::bytea[], $8::bytea[]) as dead (meter, window_start, reason, detail, payload, digest)
order by meter, window_start  -- every writer takes letters in this order
on conflict (kind, digest) do update
    set occurrences = held.occurrences + 1, last_at = now(), reason = excluded.reason, detail = excluded.detail, payload = excluded.payload
