-- $1 connection, $2 meters, $3 window starts, $4 values as JSON, $5 remote ids.
insert into delivery as held (connection_id, meter, window_start, value, remote_id)
select $1, meter, window_start, value::jsonb, remote_id
from unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[]) as made (meter, window_start, value, remote_id)
on conflict (connection_id, meter, window_start) do update
    set value = excluded.value, remote_id = coalesce(excluded.remote_id, held.remote_id), delivered_at = now()
