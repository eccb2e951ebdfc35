-- $1 connection, $2 meters, $3 seconds.
update meter_mapping m set retry_at = now() + in_seconds(waiting.seconds)
from unnest($2::text[], $3::float8[]) as waiting (meter, seconds)
where m.connection_id = $1 and m.meter = waiting.meter
