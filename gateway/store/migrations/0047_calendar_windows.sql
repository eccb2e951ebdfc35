-- Windows of the local calendar: how long one is depends on when it is, so each that a sample lies in is a row, of its start and its end.

-- What is cut stays: what was delivered of a window is known by its start, and the rules of a zone change. Of a customer and a calendar the rows leave
-- no instant between the first and the last of them in no window, or in two.
create table calendar_window (
    customer_id  text not null,
    calendar     text not null,
    window_start timestamptz not null,
    window_end   timestamptz not null check (window_end > window_start),
    primary key (customer_id, calendar, window_start)
);

-- '': the windows are `span` long, counted from 1970. Else `span` says nothing.
alter table meter_mapping add column calendar text not null default '';

-- Functions, since a subquery that nobody needs still costs its start.

-- The start of the window of an instant. Null where none is cut yet.
create function calendar_start(customer text, wanted text, at timestamptz) returns timestamptz language plpgsql stable parallel safe as $$
begin
    return (
        select case when at < w.window_end then w.window_start end
        from (
            select window_start, window_end from calendar_window
            where customer_id = customer and calendar = wanted and window_start <= at
            order by window_start desc limit 1
        ) w
    );
end $$;

-- The end of the window that begins at an instant. Null where none does.
create function calendar_end(customer text, wanted text, start timestamptz) returns timestamptz language plpgsql stable parallel safe as $$
begin
    return (select window_end from calendar_window where customer_id = customer and calendar = wanted and window_start = start);
end $$;

-- As windows_held of 0030, over windows of the calendar: the window that has samples is [begun, until).
create function calendar_windows_held(customer text, device text, metric text, wanted text, begun timestamptz, until timestamptz, reduce text,
                                      low double precision, high double precision, hold interval)
returns setof timestamptz language plpgsql stable as $$
declare
    before    timestamptz;
    following timestamptz;
begin
    select s.ts into before from telemetry s
    where s.customer_id = customer and s.device_id = device and s.ts < begun
      and s.ts >= coalesce((select d.oldest_at from device d where d.customer_id = customer and d.device_id = device), '-infinity')
      and case reduce when 'run_time' then state_of(s.metrics -> metric, 0) is not null else weight_of(s.metrics -> metric) is not null end
      and is_within(s.metrics -> metric, low, high)
    order by s.ts desc limit 1;
    return query
        select w.window_start from calendar_window w
        where w.customer_id = customer and w.calendar = wanted and w.window_start < begun
          and w.window_start <= before + hold and w.window_start >= calendar_start(customer, wanted, before);
    select coalesce((
        select s.ts from telemetry s
        where s.customer_id = customer and s.device_id = device and s.ts >= until
          and case reduce when 'run_time' then state_of(s.metrics -> metric, 0) is not null else weight_of(s.metrics -> metric) is not null end
          and is_within(s.metrics -> metric, low, high)
        order by s.ts limit 1
    ), (
        select s.ts from telemetry s
        where s.customer_id = customer and s.device_id = device and s.ts >= until and s.metrics ? metric
        order by s.ts desc limit 1
    )) into following;
    return query
        select w.window_start from calendar_window w
        where w.customer_id = customer and w.calendar = wanted and w.window_start >= until
          and w.window_start <= until + hold and w.window_start <= following;
end $$;
