-- $1 customer, $2 past this position, $3 up to this one; $4 connections, in order, $5 the position past which each is scanned, $6 their lateness;
-- $7 whether a meter depends on more than the samples of its window. The number of samples looked at.
-- The samples are read once. What they are binned by is what the connections' meters ask for together; each connection takes its windows from that.
-- A delta and cycles also depend on the last usable sample before their window: the window of the next one after each changed one is due too.
-- Where a value is held until the next one, the windows between are due as well.
-- A sample that came since a calendar's windows were cut may lie in none yet: the slice that it is in marks its window.
-- A window marked again keeps its phase, so one worker only ever delivers it; its new mark keeps an older delivery from removing it.
-- `offset 0`: the mappings of each device are looked up by their key. Without it the planner may merge the subquery and join all mappings of a connection.
-- One statement for all: every transaction takes its windows once, in one order, so that none waits for another in a circle.
with slice as materialized (
    select device_id, ts, metrics, revision from telemetry_between($1, $2, $3)
), feeds as materialized (
    select c.connection_id, c.past, c.lateness, m.meter, m.device_id, m.metric, m.span, m.calendar, m.reduce, m.valid_low, m.valid_high, m.hold
    from (select distinct device_id from slice) d
    cross join unnest($4::text[], $5::bigint[], $6::interval[]) as c (connection_id, past, lateness)
    cross join lateral (
        select * from meter_mapping where connection_id = c.connection_id and device_id = d.device_id
        offset 0
    ) m
), touched as materialized (
    select f.device_id, f.metric, f.span, f.calendar, w.start, max(slice.revision) as revision
    from slice
    join (select distinct device_id, metric, span, calendar from feeds) f on f.device_id = slice.device_id and slice.metrics ? f.metric
    cross join lateral (
        select case f.calendar when '' then date_bin(f.span, slice.ts, 'epoch') else calendar_start($1, f.calendar, slice.ts) end as start
    ) w
    group by f.device_id, f.metric, f.span, f.calendar, w.start
), followed as materialized (
    select t.device_id, t.metric, t.span, t.calendar, f.reduce, f.valid_low, f.valid_high, t.revision,
           case t.calendar when '' then date_bin(t.span, next.ts, 'epoch') else calendar_start($1, t.calendar, next.ts) end as start
    from touched t
    join (
        select distinct device_id, metric, span, calendar, reduce, valid_low, valid_high from feeds where reduce in ('delta', 'cycles')
    ) f using (device_id, metric, span, calendar)
    cross join lateral (
        select s.ts from telemetry s
        where s.customer_id = $1 and s.device_id = t.device_id and s.ts >= case t.calendar when '' then t.start + t.span else calendar_end($1, t.calendar, t.start) end
          and case jsonb_typeof(s.metrics -> t.metric)
                  when 'number' then f.reduce = 'cycles' or abs((s.metrics -> t.metric)::float8) < 1e150
                  when 'boolean' then f.reduce = 'cycles'
              end
          and is_within(s.metrics -> t.metric, f.valid_low, f.valid_high)
        order by s.ts limit 1
    ) next
    where $7::boolean
), held as materialized (
    select t.device_id, t.metric, t.span, t.calendar, f.reduce, f.valid_low, f.valid_high, f.hold, reached.start, t.revision
    from touched t
    join (
        select distinct device_id, metric, span, calendar, reduce, valid_low, valid_high, hold from feeds where hold is not null
    ) f using (device_id, metric, span, calendar)
    cross join lateral (
        select windows_held($1, t.device_id, t.metric, t.start, t.span, f.reduce, f.valid_low, f.valid_high, f.hold) as start where t.calendar = ''
        union all
        select calendar_windows_held($1, t.device_id, t.metric, t.calendar, t.start, calendar_end($1, t.calendar, t.start), f.reduce, f.valid_low,
                                     f.valid_high, f.hold) where t.calendar <> ''
    ) reached
    where $7::boolean
), windows as (
    select f.connection_id, f.meter, t.start, f.span, f.calendar, f.reduce, f.lateness
    from touched t
    join feeds f on f.device_id = t.device_id and f.metric = t.metric and f.span = t.span and f.calendar = t.calendar
    where t.revision > f.past
    union
    select f.connection_id, f.meter, t.start, f.span, f.calendar, f.reduce, f.lateness
    from followed t
    join feeds f on f.device_id = t.device_id and f.metric = t.metric and f.span = t.span and f.calendar = t.calendar
        and f.reduce = t.reduce and f.valid_low is not distinct from t.valid_low and f.valid_high is not distinct from t.valid_high
    where t.revision > f.past and t.start is not null
    union
    select f.connection_id, f.meter, t.start, f.span, f.calendar, f.reduce, f.lateness
    from held t
    join feeds f on f.device_id = t.device_id and f.metric = t.metric and f.span = t.span and f.calendar = t.calendar
        and f.reduce = t.reduce and f.valid_low is not distinct from t.valid_low and f.valid_high is not distinct from t.valid_high
        and f.hold = t.hold
    where t.revision > f.past
), marked as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select connection_id, meter, start, 'incremental',
           case calendar when '' then start + span else calendar_end($1, calendar, start) end + case when reduce = 'each' then interval '0' else lateness end
    from windows
    order by connection_id, meter, start
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
)
select count(*) from slice
