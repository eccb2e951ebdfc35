-- Open breakers, in how many seconds each may be tried, and what it holds back.
select scope, key, extract(epoch from next_trial_at - now())::float8 as next_trial_seconds, operation from breaker
