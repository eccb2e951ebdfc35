-- $1 connection, $2 meters, $3 window starts, $4 marks. What the system holds is known again, unless it came into doubt anew.
with known as materialized (
    select held.place
    from (
        select meter, window_start, mark
        from unnest($2::text[], $3::timestamptz[], $4::bigint[]) as given (meter, window_start, mark)
        order by meter, window_start
    ) done
    cross join lateral (
        select d.ctid as place from delivery_doubt d
        where d.connection_id = $1 and d.meter = done.meter and d.window_start = done.window_start and d.mark = done.mark
        for update
    ) held
)
delete from delivery_doubt d using known where d.ctid = known.place
