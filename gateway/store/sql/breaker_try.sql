-- $1 scopes, $2 keys, one array a column, $3 seconds of the trial, $4 caller. Nobody else may try until then.
update breaker b set next_trial_at = clock_timestamp() + in_seconds($3), caller = $4
from unnest($1::text[], $2::text[]) as asked (scope, key) where b.scope = asked.scope and b.key = asked.key
