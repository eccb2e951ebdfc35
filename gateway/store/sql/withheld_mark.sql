-- $1 connection, $2 phase. Makes due what is to be looked at again.
with again as (
    update withheld set again = false where connection_id = $1 and again returning meter, window_start
)
insert into due_window (connection_id, meter, window_start, phase, closes_at)
select $1, meter, window_start, $2, now()
from again
where exists (select from meter_mapping m where m.connection_id = $1 and m.meter = again.meter)
order by meter, window_start  -- every writer takes windows in this order
on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
