-- $1 connection, $2 customer, $3 from, $4 until, $5 lateness. The windows that samples in [from, until) touch; the number of samples.
with slice as materialized (
    select device_id, ts, metrics from telemetry where customer_id = $2 and ts >= $3 and ts < $4
), marked as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select $1, m.meter, w.start, 'initial', w.start + m.span + case when m.reduce = 'each' then interval '0' else $5 end
    from slice
    join meter_mapping m on m.connection_id = $1 and m.device_id = slice.device_id and slice.metrics ? m.metric
    cross join lateral (select date_bin(m.span, slice.ts, 'epoch') as start) w
    group by m.meter, w.start, m.span, m.reduce
    order by m.meter, w.start  -- every writer takes windows in this order, so that none waits for another in a circle
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
)
select count(*) from slice
