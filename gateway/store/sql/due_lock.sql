-- $1 connection, $2 meters, $3 window starts. Takes windows in the one order in which every transaction does, before it changes or removes them.
-- Lateral, so that each is found by its key: with sorting disabled a join would walk the whole index in its order.
select from (select meter, window_start from unnest($2::text[], $3::timestamptz[]) as given (meter, window_start) order by meter, window_start) wanted
cross join lateral (
    select from due_window d
    where d.connection_id = $1 and d.meter = wanted.meter and d.window_start = wanted.window_start
    for update
) held
