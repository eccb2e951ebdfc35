-- $1 connection, $2 meters, $3 window starts, $4 values as JSON, $5 seconds until the system may be asked.
insert into delivery_doubt (connection_id, meter, window_start, value, ask_at)
select $1, meter, window_start, value::jsonb, now() + in_seconds($5)
from unnest($2::text[], $3::timestamptz[], $4::text[]) as sent (meter, window_start, value)
order by meter, window_start
on conflict (connection_id, meter, window_start) do update set value = excluded.value, ask_at = excluded.ask_at, mark = excluded.mark
