-- $1 connection, $2 meters, $3 window starts, $4 marks. Only the marks that were computed from: telemetry that changed since stays due.
-- Each is taken before it is removed, in the one order in which every transaction takes windows.
with places as materialized (
    select held.place
    from (
        select meter, window_start, mark
        from unnest($2::text[], $3::timestamptz[], $4::bigint[]) as given (meter, window_start, mark)
        order by meter, window_start
    ) done
    cross join lateral (
        select d.ctid as place from due_window d
        where d.connection_id = $1 and d.meter = done.meter and d.window_start = done.window_start and d.mark = done.mark
        for update
    ) held
)
delete from due_window d using places where d.ctid = places.place
