-- $1 connection, $2 customer, $3 past this position, $4 up to this one, $5 lateness, $6 whether a meter is a delta. The number of samples looked at.
-- A delta also depends on the last number before its window: the window of the next number after each changed one is due too.
-- A window marked again keeps its phase, so one worker only ever delivers it; its new mark keeps an older delivery from removing it.
-- One statement for both: every transaction takes its windows once, in one order, so that none waits for another in a circle.
with slice as materialized (
    select device_id, ts, metrics from telemetry_between($2, $3, $4)
), touched as materialized (
    select m.meter, w.start, m.span, m.reduce
    from slice
    join meter_mapping m on m.connection_id = $1 and m.device_id = slice.device_id and slice.metrics ? m.metric
    cross join lateral (select date_bin(m.span, slice.ts, 'epoch') as start) w
    group by m.meter, w.start, m.span, m.reduce
), followed as materialized (
    select m.meter, w.start, m.span, m.reduce
    from slice
    join meter_mapping m on m.connection_id = $1 and m.device_id = slice.device_id and m.reduce = 'delta' and slice.metrics ? m.metric
    cross join lateral (
        select t.ts from telemetry t
        where t.customer_id = $2 and t.device_id = slice.device_id and t.ts >= date_bin(m.span, slice.ts, 'epoch') + m.span
          and case when jsonb_typeof(t.metrics -> m.metric) = 'number' then abs((t.metrics -> m.metric)::float8) < 1e150 end
        order by t.ts limit 1
    ) next
    cross join lateral (select date_bin(m.span, next.ts, 'epoch') as start) w
    where $6::boolean
    group by m.meter, w.start, m.span, m.reduce
), windows as (
    select meter, start, span, reduce from touched
    union
    select meter, start, span, reduce from followed
), marked as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, start, 'incremental', start + span + case when reduce = 'each' then interval '0' else $5 end
    from windows
    order by meter, start
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
)
select count(*) from slice
