-- $1 connection, $2 meters, $3 window starts, $4 marks. What the system holds is known again, unless it came into doubt anew.
with known as materialized (
    select d.ctid from delivery_doubt d
    join unnest($2::text[], $3::timestamptz[], $4::bigint[]) as done (meter, window_start, mark)
        on d.meter = done.meter and d.window_start = done.window_start and d.mark = done.mark::text::xid8
    where d.connection_id = $1
    order by d.meter, d.window_start
    for update of d
)
delete from delivery_doubt d using known where d.ctid = known.ctid
