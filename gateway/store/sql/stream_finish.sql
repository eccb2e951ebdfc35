-- $1 connection, $2 name, $3 phase, $4 fence, $5 state, $6 seconds to the next run, $7 attempts, $8 error, $9 whether the run succeeded,
-- $10 whether it moved anything, $11 runs in a row that the system put off, $12 whether what failed before
-- still waits: its error stays.
-- Gives the lease back and schedules; false when the lease was lost. The version of the status document rises when what it shows has changed.
with finished as (
    update stream s
    -- a change of meters may have begun the initial sync anew while its last run ended
    set state = case when $5 = 'done' and s.initial_cursor < s.initial_until then 'idle' else $5 end, next_run_at = now() + in_seconds($6), attempts = $7, last_error = case when $12 then s.last_error else $8 end, put_off = $11,
        last_success_at = case when $9 then now() else s.last_success_at end,
        lease_owner = null, lease_until = null, trial = false
    from (select state, last_error from stream where (connection_id, name, phase) = ($1, $2, $3)) before
    where (s.connection_id, s.name, s.phase, s.fence) = ($1, $2, $3, $4)
    returning before.state is distinct from s.state or before.last_error is distinct from s.last_error as changed
), told as (
    update connection set version = version + 1
    where connection_id = $1 and exists (select from finished where changed or $10)
)
select exists (select from finished)
