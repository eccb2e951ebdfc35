-- Seconds until streams should be claimed that are not due yet, null when none is to come: those that are due now are claimed, or somebody works on them.
-- Whoever is due next waits for company where it is due in a moment: an eighth of its interval, a quarter of a second at most; with longer intervals a sixtieth, and a second at most.
-- All that are due within that second are asked: one with a short interval waits no longer for standing behind many with long ones.
select extract(epoch from min(greatest(next_run_at, now() + least(greatest(every / 60, least(every / 8, interval '0.25 seconds')), interval '1 second'))) - now())::float8
from (
    select next_run_at, coalesce(every, interval '0') as every
    from stream
    where state <> 'done' and next_run_at > now() and next_run_at <= now() + interval '1 second'
    union all
    (select next_run_at, interval '0' from stream where state <> 'done' and next_run_at > now() + interval '1 second' order by next_run_at limit 1)
) soon
