-- $1 connections, $2 seconds to the next probe, one array a column. Their systems answered a probe: each is probed again after that. Those that are not
-- active any more, or whose failures were being counted, are left out: they need another look at what the answer means.
with well as (
    update connection c set probe_at = now() + in_seconds(given.seconds), probe_attempts = 0
    from unnest($1::text[], $2::float8[]) as given (connection_id, seconds)
    where c.connection_id = given.connection_id and c.state = 'active'
    returning c.connection_id
)
select connection_id from well
