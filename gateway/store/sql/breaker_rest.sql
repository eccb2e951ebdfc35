-- $1 scope, $2 key, $3 seconds until the next trial, $4 trials that failed.
update breaker set next_trial_at = clock_timestamp() + in_seconds($3), trials = $4, caller = null where scope = $1 and key = $2
