-- $1 scopes, $2 keys, one array a column, $3 states in which calls are made, $4 seconds after which a failure is forgotten.
-- A probe was answered: of these breakers, those where pushes (or else pulls) fail hold back only those from now on, and one may try at once.
update breaker b set operation = failing.operation, trials = 0, caller = null, next_trial_at = clock_timestamp()
from unnest($1::text[], $2::text[]) as asked (scope, key)
cross join lateral (
    select max(h.operation) as operation  -- 'push' is after 'pull'
    from call_health h join connection c using (connection_id)
    where h.operation in ('push', 'pull') and h.failing_since is not null and h.last_failure_at > now() - in_seconds($4) and c.state = any($3)
      and case asked.scope when 'host' then h.host else h.system end = asked.key
) failing
where b.scope = asked.scope and b.key = asked.key and b.operation = 'probe' and failing.operation is not null
returning b.scope, b.key, b.operation
