-- $1 connection, $2 meters, $3 window starts, $4 marks. Only the marks that were computed from: telemetry that changed since stays due.
delete from due_window d
using unnest($2::text[], $3::timestamptz[], $4::bigint[]) as done (meter, window_start, mark)
where d.connection_id = $1 and d.meter = done.meter and d.window_start = done.window_start and d.mark = done.mark::text::xid8
