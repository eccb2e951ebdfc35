-- $1 connection, $2 meters, $3 window starts.
update due_window d set attempts = d.attempts + 1
from unnest($2::text[], $3::timestamptz[]) as waiting (meter, window_start)
where d.connection_id = $1 and d.meter = waiting.meter and d.window_start = waiting.window_start
