-- Seconds until the next stream is due, null when none is: those that are due now are claimed, or somebody works on them.
select extract(epoch from next_run_at - now())::float8 from stream where state <> 'done' and next_run_at > now() order by next_run_at limit 1
