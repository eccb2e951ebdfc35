-- $1 scope, $2 key, $3 seconds until the first trial, $4 operation that is held back. The key when it was closed before.
insert into breaker (scope, key, next_trial_at, operation) values ($1, $2, now() + in_seconds($3), $4) on conflict do nothing returning key
