-- $1 connection, $2 customer, $3 from revision, $4 until revision, $5 lateness. The number of samples looked at.
-- A window marked again keeps its phase, so one worker only ever delivers it; its new mark keeps an older delivery from removing it.
with slice as materialized (
    select device_id, ts, metrics from telemetry
    where customer_id = $2 and revision >= $3::text::xid8 and revision < $4::text::xid8
), touched as materialized (
    select m.meter, w.start, m.span, m.reduce
    from slice
    join meter_mapping m on m.connection_id = $1 and m.device_id = slice.device_id and slice.metrics ? m.metric
    cross join lateral (select date_bin(m.span, slice.ts, 'epoch') as start) w
    group by m.meter, w.start, m.span, m.reduce
), marked as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, start, 'incremental', start + span + case when reduce = 'each' then interval '0' else $5 end
    from touched
    order by meter, start  -- every writer takes windows in this order, so that none waits for another in a circle
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
)
select count(*) from slice
