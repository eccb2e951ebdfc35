-- $1 connection, $2 whether a web page answered. Seconds of failures in a row, and seconds in which nothing but web pages answered.
update connection
set failing_since = coalesce(failing_since, now()), suspect_since = case when $2 then coalesce(suspect_since, now()) end
where connection_id = $1
returning extract(epoch from now() - failing_since)::float8 as failing, coalesce(extract(epoch from now() - suspect_since), 0)::float8 as suspect
