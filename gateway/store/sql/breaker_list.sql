-- Open breakers, and in how many seconds each may be tried.
select scope, key, extract(epoch from next_trial_at - now())::float8 as next_trial_seconds from breaker
