-- $1 scopes, $2 keys, one array a column, $3 states in which calls are made, $4 seconds after which a failure is forgotten.
-- A probe was answered: of these breakers, those where pushes fail hold back only those from now on, and a push may try at once.
update breaker b set operation = 'push', trials = 0, caller = null, next_trial_at = clock_timestamp()
from unnest($1::text[], $2::text[]) as asked (scope, key)
where b.scope = asked.scope and b.key = asked.key and b.operation = 'probe'
  and exists (select from call_health h join connection c using (connection_id)
              where h.operation = 'push' and h.failing_since is not null and h.last_failure_at > now() - in_seconds($4) and c.state = any($3)
                and case b.scope when 'host' then h.host else h.system end = b.key)
returning b.scope, b.key
