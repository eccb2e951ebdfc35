-- $1 connection, $2 phase, $3 customer, $4 limit, $5 and $6 the window start and meter to begin after: what a run has passed is dead
-- entries of the index until it is vacuumed.
-- Closed windows, oldest first, each with what its samples make of it now, what the system holds for it, and for a deadband what the
-- system holds for the meter's window before it, and which that is.
-- computed: null where the window has no sample. Else its value (null: none can be told, as for the first reading of a counter), a sample
-- that cannot take part (a text where a number is needed, a number that a double does not hold or whose sum would leave it: of several
-- the first in the order of texts), whether the samples of a sum reach 2^53 together, where integers are lost, and, where the window was delivered by
-- an earlier version (of_doubles), by how much a value that adds may differ, since that one added doubles. Added are decimals, as they were sent: 0.1 and 0.2 are 0.3, in whatever order.
-- A boolean is 0 or 1 for mean, min, max, sum and time_weighted_mean; a counter (delta) is never one. For run_time and cycles a number above
-- the threshold is true. A number outside the limits of its meter is as good as not there, but a window that has nothing else is not empty:
-- what the system holds for it is to be corrected.
-- A window that begins before samples of the customer that were dropped ended is as one without a sample: what is left of it would be a wrong value. So is one
-- whose value depends on what was before it, where that may have been dropped: no usable sample is left before it, the device had some, and the window was
-- delivered with them, or begins so soon after that they would have been (a value is held for a day at most; what was silent for longer begins anew).
-- Nothing is due while the connection may not call its system. What is in doubt has a doubt and what was sent last.
-- The subqueries stand in CASE so that each window runs only the one of its reduction. `offset 0` keeps a subquery apart from the one around it: so the
-- JSON of a sample is taken apart once, and not for each place that uses it.
with picked as materialized (
    select d.meter, d.window_start, d.mark, d.attempts
    from due_window d
    where d.connection_id = $1 and d.phase = $2 and d.closes_at <= now()
      and (d.window_start, d.meter) > ($5, $6)
      and exists (select from connection c where c.connection_id = $1 and (c.state in ('active', 'degraded')
                  or (c.state = 'blocked' and exists (select from stream s where s.connection_id = $1 and s.phase = $2 and s.trial))))
      and not exists (select from meter_mapping m where m.connection_id = $1 and m.meter = d.meter and m.retry_at > now())
      and d.meter <> all(array(select distinct q.meter from delivery_doubt q where q.connection_id = $1 and q.ask_at > now()))
    order by d.window_start, d.meter
    limit $4
), due as materialized (
    select picked.*, m.device_id, m.metric, m.reduce, m.deadband, m.unit, m.max_silence, m.scale, m.value_offset,
           m.rollover::text::numeric as rollover, m.reset_below::text::numeric as reset_below, m.threshold, m.valid_low, m.valid_high, m.hold, m.conversion, v.oldest_at,
           case m.calendar when '' then picked.window_start + m.span else calendar_end($3, m.calendar, picked.window_start) end as until,
           coalesce((select g.until from telemetry_dropped g where g.customer_id = $3), '-infinity') as kept_from
    from picked
    cross join lateral (select * from meter_mapping m where m.connection_id = $1 and m.meter = picked.meter limit 1) m
    left join lateral (
        select d.oldest_at from device d where (m.reduce in ('delta', 'cycles') or m.hold is not null) and d.customer_id = $3 and d.device_id = m.device_id limit 1
    ) v on true
)
select due.meter, due.window_start, due.mark, due.attempts, due.unit, due.deadband, due.reduce, due.max_silence, due.scale, due.value_offset, due.conversion,
       case when due.window_start >= due.kept_from
                 and case when (due.reduce in ('delta', 'cycles') or due.hold is not null) and coalesce(due.oldest_at, '-infinity') < due.kept_from
                               and (due.window_start < due.kept_from + coalesce(due.hold, interval '1 day') or (due.hold is null and held.value is not null))
                          then reduced_rarely($3, due.device_id, due.metric, 'first', due.kept_from, due.window_start, due.unit, due.threshold,
                                              due.valid_low, due.valid_high, due.hold, due.oldest_at) is not null
                          else true end
            then coalesce(case
           when due.reduce in ('last', 'each') then (
               select jsonb_build_array(
                          raw,
                          case when jsonb_typeof(raw) = 'number' and abs(raw::numeric) > 9007199254740992
                                    and raw::numeric <> raw::float8::text::numeric then raw end,
                          false)
               from (
                   select t.metrics -> due.metric as raw
                   from telemetry t
                   where t.customer_id = $3 and t.device_id = due.device_id
                     and t.ts >= due.window_start and t.ts < due.until
                     and t.metrics ? due.metric and is_within(t.metrics -> due.metric, due.valid_low, due.valid_high)
                   order by t.ts desc
                   limit 1
               ) newest
           )
           when due.reduce = 'delta' then (
               -- Increase of a counter. A deep fall means that it went on behind its end, or began again at zero; a small one is noise.
               -- Starts from the last number before the window.
               select jsonb_build_array(rise.total, rise.unfit, false, 2.3e-16 * (rise.highest + rise.steps * rise.total))
               from (
                   select sum(case
                                  when step.number >= step.prior then step.number - step.prior
                                  when step.number >= 0 and step.prior <= due.rollover and step.prior - step.number > due.rollover / 2
                                      then step.number + (due.rollover - step.prior)
                                  when step.number < coalesce(due.reset_below, step.prior - step.number) then greatest(step.number, 0)
                                  else 0
                              end)
                              filter (where step.inside and step.prior is not null) as total,
                          (min(step.raw::text) filter (where step.inside and step.number is null))::jsonb as unfit,
                          greatest(max(step.number) filter (where held.of_doubles), -min(step.number) filter (where held.of_doubles)) as highest,
                          count(*) as steps
                   from (
                       select seen.number, lag(seen.number) over (order by seen.ts) as prior, seen.inside, seen.raw
                       from (
                           (select t.ts, (t.metrics -> due.metric)::numeric as number, false as inside, null::jsonb as raw
                            from telemetry t
                            where t.customer_id = $3 and t.device_id = due.device_id and t.ts < due.window_start
                              and t.ts >= coalesce(due.oldest_at, '-infinity')  -- else each earlier day is asked, of a device that has none
                              and case when jsonb_typeof(t.metrics -> due.metric) = 'number' then abs((t.metrics -> due.metric)::numeric) < 1e150 end
                              and is_within(t.metrics -> due.metric, due.valid_low, due.valid_high)
                            order by t.ts desc
                            limit 1)
                           union all
                           select sample.ts, case when is_exact(sample.number) then sample.number end, true, sample.raw
                           from (
                               select t.ts, t.metrics -> due.metric as raw,
                                      case when jsonb_typeof(t.metrics -> due.metric) = 'number' then (t.metrics -> due.metric)::numeric end as number
                               from telemetry t
                               where t.customer_id = $3 and t.device_id = due.device_id
                                 and t.ts >= due.window_start and t.ts < due.until
                                 and t.metrics ? due.metric and is_within(t.metrics -> due.metric, due.valid_low, due.valid_high)
                               offset 0
                           ) sample
                       ) seen
                   ) step
                   having bool_or(step.inside)
               ) rise
           )
           -- in functions: a subquery that no window needs still costs its start
           when due.reduce in ('first', 'cycles') then
               reduced_rarely($3, due.device_id, due.metric, due.reduce, due.window_start, due.until, due.unit, due.threshold,
                              due.valid_low, due.valid_high, due.hold, due.oldest_at)
           when due.hold is not null then
               reduced_over_time($3, due.device_id, due.metric, due.reduce, due.window_start, due.until, due.unit, due.threshold,
                                 due.valid_low, due.valid_high, due.hold)
           when due.reduce in ('mean', 'sum') then (
               select jsonb_build_array(
                          case due.reduce when 'sum' then made.total else round(made.total, greatest(scale(made.total), 40)) / made.numbers end,
                          made.unfit,
                          due.reduce = 'sum' and made.absolute >= 9007199254740992,
                          1.2e-16 * (made.numbers + 2) * made.highest * case due.reduce when 'sum' then made.numbers else 1 end)
               from (
                   select sum(n.number) as total, nullif(count(n.number), 0) as numbers,
                          sum(abs(n.number)) filter (where due.reduce = 'sum') as absolute,
                          greatest(max(n.number) filter (where held.of_doubles), -min(n.number) filter (where held.of_doubles)) as highest,
                          (min(n.raw::text) filter (where n.number is null))::jsonb as unfit
                   from (
                       select sample.raw, case when is_exact(sample.number) then sample.number end as number
                       from (
                           select t.metrics -> due.metric as raw,
                                  case jsonb_typeof(t.metrics -> due.metric)
                                      when 'number' then (t.metrics -> due.metric)::numeric
                                      when 'boolean' then (t.metrics -> due.metric)::boolean::int::numeric
                                  end as number
                           from telemetry t
                           where t.customer_id = $3 and t.device_id = due.device_id
                             and t.ts >= due.window_start and t.ts < due.until
                             and t.metrics ? due.metric and is_within(t.metrics -> due.metric, due.valid_low, due.valid_high)
                           offset 0
                       ) sample
                       offset 0  -- so that each sample is taken apart once, and not for each of the aggregates
                   ) n
                   having count(*) > 0
               ) made
           )
           else (
               select jsonb_build_array(
                          case due.reduce when 'count' then count(*)::float8 when 'min' then min(n.number) else max(n.number) end,
                          (min(n.raw::text) filter (
                               where due.reduce <> 'count'
                                 and case when abs(n.number) < 9007199254740992 then false
                                          else n.number is null or n.raw::numeric <> n.number::text::numeric end))::jsonb,
                          false)
               from (
                   select raw,
                          case jsonb_typeof(raw) when 'number' then raw::float8 when 'boolean' then raw::boolean::int::float8 end as number
                   from (
                       select t.metrics -> due.metric as raw
                       from telemetry t
                       where t.customer_id = $3 and t.device_id = due.device_id
                         and t.ts >= due.window_start and t.ts < due.until
                         and t.metrics ? due.metric and is_within(t.metrics -> due.metric, due.valid_low, due.valid_high)
                       offset 0
                   ) sample
                   where is_within(raw, due.valid_low, due.valid_high)
                   offset 0
               ) n
               having count(*) > 0
           )
       end, case when (due.valid_low is not null or due.hold is not null)
                      and has_samples($3, due.device_id, due.metric, due.window_start - coalesce(due.hold, interval '0'), due.until)
                 then '[null, null, false]'::jsonb end) end as computed,
       (select q.mark from delivery_doubt q
        where q.connection_id = $1 and q.meter = due.meter and q.window_start = due.window_start) as doubt,
       (select q.value from delivery_doubt q
        where q.connection_id = $1 and q.meter = due.meter and q.window_start = due.window_start) as doubted,
       held.value as delivered, coalesce(held.of_doubles, false) as of_doubles,
       before.value as previous, before.window_start as previous_at
from due
left join lateral (
    select d.value, d.delivered_at < (select m.applied_at from migration m where m.name = '0053_decimals') as of_doubles
    from delivery d where d.connection_id = $1 and d.meter = due.meter and d.window_start = due.window_start limit 1
) held on true
left join lateral (
    select d.value, d.window_start from delivery d
    where due.deadband > 0 and d.connection_id = $1 and d.meter = due.meter and d.window_start < due.window_start
    order by d.window_start desc
    limit 1
) before on true
order by due.meter, due.window_start
