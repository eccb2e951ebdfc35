-- $1 connection, $2 phase, $3 customer, $4 limit, $5 and $6 the window start and meter to begin after: what a run has passed is dead
-- entries of the index until it is vacuumed.
-- Closed windows, oldest first, each with its value recomputed from telemetry, what the system holds for it, and for a deadband
-- what the system holds before it. What is in doubt has a doubt and what was sent last. A value is null when no sample, or no numeric one where a number is needed, is left in the window.
-- Nothing is due while the connection may not call its system. Numbers beyond 1e150 are no measurements: their sums leave float8.
-- The subqueries stand in CASE so that each window runs only the one of its reduction.
with picked as materialized (
    select d.meter, d.window_start, d.mark, d.attempts
    from due_window d
    where d.connection_id = $1 and d.phase = $2 and d.closes_at <= now()
      and (d.window_start, d.meter) > ($5, $6)
      and exists (select from connection c where c.connection_id = $1 and c.state in ('active', 'degraded'))
      and not exists (select from meter_mapping m where m.connection_id = $1 and m.meter = d.meter and m.retry_at > now())
      and d.meter <> all(array(select distinct q.meter from delivery_doubt q where q.connection_id = $1 and q.ask_at > now()))
    order by d.window_start, d.meter
    limit $4
), due as materialized (
    select picked.*, m.device_id, m.metric, m.reduce, m.span, m.deadband, m.unit
    from picked
    cross join lateral (select * from meter_mapping m where m.connection_id = $1 and m.meter = picked.meter limit 1) m
)
select due.meter, due.window_start, due.mark::text::bigint as mark, due.attempts, due.unit, due.deadband, due.reduce,
       case
           when due.reduce in ('last', 'each') then (
               select t.metrics -> due.metric
               from telemetry t
               where t.customer_id = $3 and t.device_id = due.device_id
                 and t.ts >= due.window_start and t.ts < due.window_start + due.span
                 and t.metrics ? due.metric
               order by t.ts desc
               limit 1
           )
           when due.reduce = 'delta' then (
               -- Increase of a counter: a fall means that it began again at zero. Starts from the last sample before the window.
               select to_jsonb(sum(case when step.number < step.prior then step.number else step.number - step.prior end))
               from (
                   select seen.number, lag(seen.number) over (order by seen.ts) as prior, seen.inside
                   from (
                       (select t.ts, (t.metrics -> due.metric)::float8 as number, false as inside
                        from telemetry t
                        where t.customer_id = $3 and t.device_id = due.device_id and t.ts < due.window_start
                          and case when jsonb_typeof(t.metrics -> due.metric) = 'number' then abs((t.metrics -> due.metric)::float8) < 1e150 end
                        order by t.ts desc
                        limit 1)
                       union all
                       select t.ts, (t.metrics -> due.metric)::float8, true
                       from telemetry t
                       where t.customer_id = $3 and t.device_id = due.device_id
                         and t.ts >= due.window_start and t.ts < due.window_start + due.span
                         and case when jsonb_typeof(t.metrics -> due.metric) = 'number' then abs((t.metrics -> due.metric)::float8) < 1e150 end
                   ) seen
               ) step
               where step.inside and step.prior is not null
           )
           else (
               select to_jsonb(case due.reduce
                          when 'count' then count(*)::float8
                          when 'mean' then avg(n.number) filter (where abs(n.number) < 1e150)
                          when 'min' then min(n.number)
                          when 'max' then max(n.number)
                          when 'sum' then sum(n.number) filter (where abs(n.number) < 1e150)
                      end)
               from telemetry t
               cross join lateral (
                   select case jsonb_typeof(t.metrics -> due.metric)
                              when 'number' then (t.metrics -> due.metric)::float8
                              when 'boolean' then (t.metrics -> due.metric)::boolean::int::float8
                          end as number
               ) n
               where t.customer_id = $3 and t.device_id = due.device_id
                 and t.ts >= due.window_start and t.ts < due.window_start + due.span
                 and t.metrics ? due.metric
               having count(*) > 0
           )
       end as value,
       (select q.mark::text::bigint from delivery_doubt q
        where q.connection_id = $1 and q.meter = due.meter and q.window_start = due.window_start) as doubt,
       (select q.value from delivery_doubt q
        where q.connection_id = $1 and q.meter = due.meter and q.window_start = due.window_start) as doubted,
       (select d.value from delivery d where d.connection_id = $1 and d.meter = due.meter and d.window_start = due.window_start) as delivered,
       case when due.deadband > 0 then (
           select d.value from delivery d
           where d.connection_id = $1 and d.meter = due.meter and d.window_start < due.window_start
           order by d.window_start desc
           limit 1
       ) end as previous
from due
order by due.meter, due.window_start
