-- $1 connection, $2 seconds to the next probe. The system has answered a call: it need not be probed for a while. What waits to be verified waits no longer for that.
-- The state, the operation that it comes from, and whether a recovery counts: at once the first time; within an hour of the last one only
-- when that operation has not failed for five minutes, so that what comes and goes is told once.
with called as (
    update connection
    set probe_at = now() + in_seconds($2), probe_attempts = 0
    where connection_id = $1 and state in ('active', 'degraded') and candidate is null and in_use is null and (probe_at < now() + in_seconds($2 / 2) or probe_attempts > 0)
)
select c.state, c.operation,
       c.recovered_at is null or c.recovered_at < c.since - interval '1 hour'
       or not exists (select from call_health h where h.connection_id = $1 and h.operation = coalesce(c.operation, h.operation)
                                                  and h.last_failure_at > now() - interval '5 minutes') as recovers
from connection c where c.connection_id = $1
