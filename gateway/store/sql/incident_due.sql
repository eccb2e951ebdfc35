-- The time, when there is anything to decide.
select now() where exists (select from call_health where failing_since is not null) or exists (select from incident where closed_at is null) or exists (select from breaker)
