-- $1 connection, $2 name, $3 phase, $4 fence, $5 state, $6 seconds to the next run, $7 attempts, $8 error, $9 whether the run succeeded,
-- $10 whether it moved anything, $11 runs in a row that the system put off, $12 whether what failed before
-- still waits: its error stays. $13 started, $14 outcome, $15 samples, $16 delivered, $17 modified, $18 unchanged, $19 rejected, $20 retried.
-- Gives the lease back, schedules, and keeps a record of a run that moved or failed; false when the lease was lost. The version of the status
-- document rises when what it shows has changed. The connection's row is taken before the stream's, as by every transition.
with locked as materialized (
    select true from connection where connection_id = $1 for no key update
), finished as (
    update stream s
    -- a change of meters may have begun the initial sync anew while its last run ended
    set state = case when $5 = 'done' and s.initial_cursor < s.initial_until then 'idle' else $5 end, next_run_at = now() + in_seconds($6), attempts = $7, last_error = case when $12 then s.last_error else $8::text end, put_off = $11,
        last_success_at = case when $9 then now() else s.last_success_at end,
        lease_owner = null, lease_until = null, trial = false
    from (select state, last_error from stream where (connection_id, name, phase) = ($1, $2, $3)) before
    where (s.connection_id, s.name, s.phase, s.fence) = ($1, $2, $3, $4) and exists (select from locked)
    returning before.state is distinct from s.state or before.last_error is distinct from s.last_error as changed
), told as (
    update connection set version = version + 1
    where connection_id = $1 and exists (select from finished where changed or $10)
), recorded as (
    insert into sync_run (connection_id, name, phase, started_at, outcome, samples, delivered, modified, unchanged, rejected, retried, error)
    select $1, $2, $3, $13, $14, $15, $16, $17, $18, $19, $20, $8 from finished where $10 or $8 is not null
)
select exists (select from finished)
