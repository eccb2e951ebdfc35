-- Values that are added are added as decimals, as they were sent: a sum of doubles shows digits that nobody measured, and depends on the order in which rows
-- come.

-- Whether a number can be told and added: a double holds it exactly, or it is a fraction of which it holds the nearest, and so it is of a sum of many.
create function is_exact(number numeric) returns boolean language sql immutable parallel safe as $$
    select case when number < 9007199254740992 and number > -9007199254740992 then true
                else abs(number) < 1e150 and number = number::float8::text::numeric end
$$;

-- What the samples of a window make by the reductions in which a value counts until the next one: as `computed` in due_compute.sql, null where there are none.
-- In the place of that part of reduced_rarely.
create function reduced_over_time(customer text, device text, metric text, reduce text, begun timestamptz, until timestamptz, unit text,
                                  threshold double precision, low double precision, high double precision, hold interval)
returns jsonb language plpgsql stable as $$
begin
    return (
        -- Each value counts until the next one, for `hold` at most; the last one until the window ends.
        select jsonb_build_array(round(made.total, greatest(scale(made.total), 40)) / made.per, made.unfit, false, made.noise)
        from (
            select case reduce when 'run_time' then sum(case when part.state then part.seconds else 0 end) else sum(part.number * part.seconds) end as total,
                   case reduce when 'run_time' then case unit when 'HUR' then 3600 when 'MIN' then 60 else 1 end
                               else nullif(sum(part.seconds) filter (where part.number is not null), 0) end as per,
                   (min(part.raw::text) filter (
                        where case reduce when 'run_time' then part.state is null else is_exact(part.number) is not true end))::jsonb as unfit,
                   case reduce when 'run_time' then 1e-9 else 2.3e-16 * (count(*) + 2) * greatest(max(part.number), -min(part.number)) end as noise
            from (
                select seen.raw, seen.number, state_of(seen.raw, threshold) as state,
                       extract(epoch from least(coalesce(lead(seen.ts) over (order by seen.ts), until), seen.ts + hold)
                                          - greatest(seen.ts, begun)) as seconds
                from (
                    select held.ts, held.raw,
                           case jsonb_typeof(held.raw)
                               when 'number' then case when abs(held.raw::numeric) < 1e150 then held.raw::numeric end
                               when 'boolean' then held.raw::boolean::int::numeric
                           end as number
                    from (
                        (select t.ts, t.metrics -> metric as raw
                         from telemetry t
                         where t.customer_id = customer and t.device_id = device
                           and t.ts < begun and t.ts > begun - hold
                           and case reduce when 'run_time' then state_of(t.metrics -> metric, threshold) is not null
                                               else weight_of(t.metrics -> metric) is not null end
                           and is_within(t.metrics -> metric, low, high)
                         order by t.ts desc
                         limit 1)
                        union all
                        select t.ts, t.metrics -> metric
                        from telemetry t
                        where t.customer_id = customer and t.device_id = device
                          and t.ts >= begun and t.ts < until
                          and t.metrics ? metric and is_within(t.metrics -> metric, low, high)
                    ) held
                ) seen
            ) part
            having count(*) > 0
        ) made
    );
end $$;
