-- What is done to a meter's values beside their reduction. Meters that are stored already stay as they are.
alter table meter_mapping
    add column max_silence  interval,                              -- after so long a value within the deadband is sent again
    add column scale        double precision not null default 1,
    add column value_offset double precision not null default 0,
    add column rollover     double precision,                      -- a counter goes on at zero behind it
    add column reset_below  double precision,                      -- null: half of what the counter was
    add column threshold    double precision not null default 0,   -- a number above it counts as true
    add column valid_low    double precision,                      -- numbers outside are not used; null: all are
    add column valid_high   double precision,
    add column hold         interval;                              -- for how long a value counts while none follows

-- Whether a value lies within the limits of its meter. They are of numbers: a text or a boolean passes.
create function is_within(raw jsonb, low double precision, high double precision) returns boolean
language sql immutable parallel safe as $$
    select case when low is null or jsonb_typeof(raw) <> 'number' then true else raw::float8 between low and high end
$$;

-- A value as true or false: a number is true above the threshold. Null for a text.
create function state_of(raw jsonb, threshold double precision) returns boolean language sql immutable parallel safe as $$
    select case jsonb_typeof(raw) when 'boolean' then raw::boolean when 'number' then raw::float8 > threshold end
$$;

-- A value that can be weighted by time: a number, or a boolean as 0 or 1. Null for a text and for what would leave a double.
create function weight_of(raw jsonb) returns double precision language sql immutable parallel safe as $$
    select case jsonb_typeof(raw)
               when 'boolean' then raw::boolean::int::float8
               when 'number' then case when abs(raw::float8) < 1e150 then raw::float8 end
           end
$$;

-- The starts of other windows whose value may change with samples of the window at `begun`, where a value counts until the next usable one, for
-- `hold` at most: those since the last usable sample before it, and those up to the next one after it. Beyond the newest sample of the metric
-- nothing is told: nobody knows yet for how long its value holds.
create function windows_held(customer text, device text, metric text, begun timestamptz, span interval, reduce text,
                             low double precision, high double precision, hold interval)
returns setof timestamptz language sql stable as $$
    select generate_series(
        date_bin(span, before.ts, 'epoch'), least(begun - span, date_bin(span, before.ts + hold, 'epoch')), span)
    from (
        select s.ts from telemetry s
        where s.customer_id = customer and s.device_id = device and s.ts < begun
          and s.ts >= coalesce((select d.oldest_at from device d where d.customer_id = customer and d.device_id = device), '-infinity')
          and case reduce when 'run_time' then state_of(s.metrics -> metric, 0) is not null else weight_of(s.metrics -> metric) is not null end
          and is_within(s.metrics -> metric, low, high)
        order by s.ts desc limit 1
    ) before
    union all
    select generate_series(
        begun + span,
        least(date_bin(span, begun + span + hold, 'epoch'), date_bin(span, following.ts, 'epoch')), span)
    from (
        select coalesce((
            select s.ts from telemetry s
            where s.customer_id = customer and s.device_id = device and s.ts >= begun + span
              and case reduce when 'run_time' then state_of(s.metrics -> metric, 0) is not null else weight_of(s.metrics -> metric) is not null end
              and is_within(s.metrics -> metric, low, high)
            order by s.ts limit 1
        ), (
            select s.ts from telemetry s
            where s.customer_id = customer and s.device_id = device and s.ts >= begun + span and s.metrics ? metric
            order by s.ts desc limit 1
        )) as ts
    ) following
    where following.ts is not null
$$;

-- What the samples of a window make by the reductions that few meters have: as `computed` in due_compute.sql, null where there are none.
create function reduced_rarely(customer text, device text, metric text, reduce text, begun timestamptz, until timestamptz, unit text,
                               threshold double precision, low double precision, high double precision, hold interval, oldest timestamptz)
returns jsonb language plpgsql stable as $$
begin
    if reduce = 'first' then
        return (
        select jsonb_build_array(
                   raw,
                   case when jsonb_typeof(raw) = 'number' and abs(raw::numeric) > 9007199254740992
                             and raw::numeric <> raw::float8::text::numeric then raw end,
                   false)
        from (
            select t.metrics -> metric as raw
            from telemetry t
            where t.customer_id = customer and t.device_id = device
              and t.ts >= begun and t.ts < until
              and t.metrics ? metric and is_within(t.metrics -> metric, low, high)
            order by t.ts
            limit 1
        ) found
        );
    elsif reduce = 'cycles' then
        return (
        -- Rising edges, from the last state before the window on. None can be told where there is but one state.
        select jsonb_build_array(
                   sum((step.state and not step.prior)::int::float8) filter (where step.inside and step.prior is not null),
                   (min(step.raw::text) filter (where step.inside and step.state is null))::jsonb,
                   false)
        from (
            select seen.state, lag(seen.state) over (order by seen.ts) as prior, seen.inside, seen.raw
            from (
                (select t.ts, state_of(t.metrics -> metric, threshold) as state, false as inside, null::jsonb as raw
                 from telemetry t
                 where t.customer_id = customer and t.device_id = device and t.ts < begun
                   and t.ts >= coalesce(oldest, '-infinity')
                   and state_of(t.metrics -> metric, threshold) is not null
                   and is_within(t.metrics -> metric, low, high)
                 order by t.ts desc
                 limit 1)
                union all
                select t.ts, state_of(t.metrics -> metric, threshold), true, t.metrics -> metric
                from telemetry t
                where t.customer_id = customer and t.device_id = device
                  and t.ts >= begun and t.ts < until
                  and t.metrics ? metric and is_within(t.metrics -> metric, low, high)
            ) seen
        ) step
        having bool_or(step.inside)
        );
    end if;
    return (
        -- Each value counts until the next one, for `hold` at most; the last one until the window ends. A tiny number counts as zero: its
        -- product would underflow, which is an error here.
        select jsonb_build_array(
                   case reduce
                       when 'run_time' then
                           sum(case when part.state then part.seconds else 0 end) / case unit when 'HUR' then 3600 when 'MIN' then 60 else 1 end
                       else sum(case when abs(part.number) < 1e-150 then 0 else part.number * part.seconds end)
                                / nullif(sum(part.seconds) filter (where part.number is not null), 0)
                   end,
                   (min(part.raw::text) filter (
                        where part.inside
                          and case when reduce = 'run_time' then part.state is null
                                   when abs(part.number) <= 9007199254740992 then false
                                   else part.number is null or part.raw::numeric <> part.number::text::numeric end))::jsonb,
                   false)
        from (
            select seen.inside, seen.raw, weight_of(seen.raw) as number, state_of(seen.raw, threshold) as state,
                   extract(epoch from least(coalesce(lead(seen.ts) over (order by seen.ts), until), seen.ts + hold)
                                      - greatest(seen.ts, begun))::float8 as seconds
            from (
                (select t.ts, false as inside, t.metrics -> metric as raw
                 from telemetry t
                 where t.customer_id = customer and t.device_id = device
                   and t.ts < begun and t.ts > begun - hold
                   and case reduce when 'run_time' then state_of(t.metrics -> metric, threshold) is not null
                                       else weight_of(t.metrics -> metric) is not null end
                   and is_within(t.metrics -> metric, low, high)
                 order by t.ts desc
                 limit 1)
                union all
                select t.ts, true, t.metrics -> metric
                from telemetry t
                where t.customer_id = customer and t.device_id = device
                  and t.ts >= begun and t.ts < until
                  and t.metrics ? metric and is_within(t.metrics -> metric, low, high)
            ) seen
        ) part
        having count(*) > 0
    );
end $$;

-- Whether a device sent a metric in [begun, until).
create function has_samples(customer text, device text, metric text, begun timestamptz, until timestamptz) returns boolean language plpgsql stable as $$
begin
    return exists (
        select from telemetry t
        where t.customer_id = customer and t.device_id = device and t.ts >= begun and t.ts < until and t.metrics ? metric
    );
end $$;
