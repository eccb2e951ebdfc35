-- $1 connection, $2 phase, $3 customer, $4 limit.
-- Closed windows, oldest first, each with its value recomputed from telemetry, what the system holds for it, and for a deadband
-- what the system holds before it. A value is null when no sample, or no numeric one where a number is needed, is left in the window.
with due as materialized (
    select d.meter, d.window_start, d.mark, d.attempts,
           m.device_id, m.metric, m.reduce, m.span, m.deadband, m.unit
    from due_window d
    join meter_mapping m using (connection_id, meter)
    where d.connection_id = $1 and d.phase = $2 and d.closes_at <= now() and (m.retry_at is null or m.retry_at <= now())
    order by d.window_start, d.meter
    limit $4
)
select due.meter, due.window_start, due.mark::text::bigint as mark, due.attempts, due.unit, due.deadband, due.reduce,
       coalesce(single.value, several.value, increase.value) as value,
       held.value as delivered, before.value as previous
from due
left join lateral (
    select t.metrics -> due.metric as value
    from telemetry t
    where due.reduce in ('last', 'each')
      and t.customer_id = $3 and t.device_id = due.device_id
      and t.ts >= due.window_start and t.ts < due.window_start + due.span
      and t.metrics ? due.metric
    order by t.ts desc limit 1
) single on true
left join lateral (
    select to_jsonb(case due.reduce
               when 'count' then count(*)::float8
               when 'mean' then avg(n.number)
               when 'min' then min(n.number)
               when 'max' then max(n.number)
               when 'sum' then sum(n.number)
           end) as value
    from telemetry t
    cross join lateral (
        select case jsonb_typeof(t.metrics -> due.metric)
                   when 'number' then (t.metrics -> due.metric)::float8
                   when 'boolean' then (t.metrics -> due.metric)::boolean::int::float8
               end as number
    ) n
    where due.reduce in ('count', 'mean', 'min', 'max', 'sum')
      and t.customer_id = $3 and t.device_id = due.device_id
      and t.ts >= due.window_start and t.ts < due.window_start + due.span
      and t.metrics ? due.metric
    having count(*) > 0
) several on true
left join lateral (
    -- Increase of a counter: a fall means that it began again at zero. Starts from the last sample before the window.
    select to_jsonb(sum(case when s.number < s.prior then s.number else s.number - s.prior end)) as value
    from (
        select inside.number,
               lag(inside.number) over (order by inside.ts) as prior, inside.counted
        from (
            (select t.ts, (t.metrics -> due.metric)::float8 as number, false as counted
             from telemetry t
             where due.reduce = 'delta' and t.customer_id = $3 and t.device_id = due.device_id and t.ts < due.window_start
               and jsonb_typeof(t.metrics -> due.metric) = 'number'
             order by t.ts desc limit 1)
            union all
            select t.ts, (t.metrics -> due.metric)::float8, true
            from telemetry t
            where due.reduce = 'delta' and t.customer_id = $3 and t.device_id = due.device_id
              and t.ts >= due.window_start and t.ts < due.window_start + due.span
              and jsonb_typeof(t.metrics -> due.metric) = 'number'
        ) inside
    ) s
    where s.counted and s.prior is not null
) increase on true
left join delivery held on held.connection_id = $1 and held.meter = due.meter and held.window_start = due.window_start
left join lateral (
    select d.value from delivery d
    where due.deadband > 0 and d.connection_id = $1 and d.meter = due.meter and d.window_start < due.window_start
    order by d.window_start desc limit 1
) before on true
order by due.meter, due.window_start
