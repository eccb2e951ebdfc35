-- $1 connection, $2 seconds to the next trial. A blocked connection whose pushes are refused: one run of the stream with the oldest window that is
-- due may push one reading. False when none is due: there is nothing to try with. The version rises, for the status shows when the next trial is.
with tried as (
    update stream s set trial = true, next_run_at = now()
    from (
        select d.phase
        from due_window d join stream w on w.connection_id = d.connection_id and w.phase = d.phase
        where d.connection_id = $1 and d.closes_at <= now() and w.state <> 'done'
        order by d.window_start
        limit 1
    ) first
    where s.connection_id = $1 and s.phase = first.phase
    returning true
), told as (
    update connection set version = version + 1, probe_at = now() + in_seconds($2) where connection_id = $1 and state = 'blocked'
)
select exists (select from tried)
