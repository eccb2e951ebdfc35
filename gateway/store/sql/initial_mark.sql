-- $1 connection, $2 customer, $3 from, $4 until, $5 lateness. The windows that samples in [from, until) touch; how many samples and windows.
-- Where a value is held until the next one, the windows between are due as well.
-- A sample that came since the calendar's windows were cut may lie in none yet: it is past the watermark, and the scan finds it.
-- Goes from the mapped meters to their devices' samples, so that it reads by the key and never what nobody asked for. `offset 0` keeps it so:
-- without it the planner may merge the subquery into the join and begin with the samples.
with touched as materialized (
    select m.meter, case m.calendar when '' then date_bin(m.span, t.ts, 'epoch') else calendar_start($2, m.calendar, t.ts) end as start,
           m.span, m.calendar, m.reduce, count(*) as samples,
           m.device_id, m.metric, m.valid_low, m.valid_high, m.hold
    from meter_mapping m
    cross join lateral (
        select s.ts from telemetry s
        where s.customer_id = $2 and s.device_id = m.device_id and s.ts >= $3 and s.ts < $4 and s.metrics ? m.metric
        offset 0
    ) t
    where m.connection_id = $1
    group by m.meter, 2, m.span, m.calendar, m.reduce, m.device_id, m.metric, m.valid_low, m.valid_high, m.hold
), windows as (
    select meter, start, span, calendar, reduce from touched where start is not null
    union
    select t.meter, reached.start, t.span, t.calendar, t.reduce
    from touched t
    cross join lateral (
        select windows_held($2, t.device_id, t.metric, t.start, t.span, t.reduce, t.valid_low, t.valid_high, t.hold) as start where t.calendar = ''
        union all
        select calendar_windows_held($2, t.device_id, t.metric, t.calendar, t.start, calendar_end($2, t.calendar, t.start), t.reduce,
                                     t.valid_low, t.valid_high, t.hold) where t.calendar <> ''
    ) reached
    where t.hold is not null and t.start is not null
), marked as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, start, 'initial', case calendar when '' then start + span else calendar_end($2, calendar, start) end
                                       + case when reduce = 'each' then interval '0' else $5 end
    from windows
    order by meter, start  -- every writer takes windows in this order, so that none waits for another in a circle
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
)
select coalesce(sum(samples), 0)::bigint as samples, (select count(*) from windows) as windows from touched
