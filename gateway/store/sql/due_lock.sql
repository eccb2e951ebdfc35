-- $1 connection, $2 meters, $3 window starts. Takes windows in the one order in which every transaction does, before it changes or removes them.
select from due_window
where connection_id = $1 and (meter, window_start) in (select * from unnest($2::text[], $3::timestamptz[]))
order by meter, window_start
for update
