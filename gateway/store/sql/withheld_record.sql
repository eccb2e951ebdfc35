-- $1 connection, $2 meters, $3 window starts, $4 what each was compared with.
-- Keeps windows as withheld whose reference is still what the system holds for the meter before them; those are returned. For the others
-- it has changed since: they stay due.
insert into withheld (connection_id, meter, window_start)
select $1, looked.meter, looked.window_start
from unnest($2::text[], $3::timestamptz[], $4::float8[]) as looked (meter, window_start, reference)
cross join lateral (
    select d.value from delivery d
    where d.connection_id = $1 and d.meter = looked.meter and d.window_start < looked.window_start
    order by d.window_start desc
    limit 1
) before
where case when jsonb_typeof(before.value) = 'number' then before.value::float8 = looked.reference end
order by looked.meter, looked.window_start
on conflict (connection_id, meter, window_start) do update set again = false
returning meter, window_start
