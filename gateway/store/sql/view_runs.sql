-- $1 connection, $2 and $3 the start and id before which to go on, $4 limit. The newest first.
select run_id, name, phase, started_at, ended_at, outcome, samples, delivered, modified, unchanged, rejected, retried, error
from sync_run
where connection_id = $1 and started_at <= $2 and (started_at, run_id) < ($2, $3)
order by started_at desc, run_id desc
limit $4
