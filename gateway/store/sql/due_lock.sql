-- $1 connection, $2 meters, $3 window starts. Before both an update and a removal: takes them in the order in which scans do.
select from due_window
where connection_id = $1 and (meter, window_start) in (select * from unnest($2::text[], $3::timestamptz[]))
order by meter, window_start
for update
