-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 state, $7 seconds to the next run, $8 attempts, $9 error, $10 whether the run succeeded,
-- $11 runs in a row that the system put off, $12 whether it asked for the wait: then a walk in hand is as fresh at its end as it is now, or one of more pages
-- than it gives at once never ends.
-- Gives the lease back and schedules; no row when the lease was lost. What changed since it was last told is told, and counted from nothing again. The version
-- of the status document rises when what it shows has changed.
with before as (
    select state, last_error, created, modified, deleted, told_position
    from inbound_stream where (customer_id, connection_id, stream, phase, fence) = ($1, $2, $3, $4, $5)
), finished as (
    update inbound_stream s
    set state = $6, next_run_at = now() + in_seconds($7), attempts = $8, last_error = $9, put_off = $11,
        walk_at = case when $12 and s.walk_cursor is not null then now() + in_seconds($7) else s.walk_at end,
        last_success_at = case when $10 then now() else s.last_success_at end, lease_owner = null, lease_until = null,
        created = 0, modified = 0, deleted = 0, told_position = null
    where (s.customer_id, s.connection_id, s.stream, s.phase, s.fence) = ($1, $2, $3, $4, $5)
    returning s.state, s.last_error
), told as (
    update connection set version = version + 1
    where connection_id = $2 and exists (
        select from before b, finished f
        where b.state is distinct from f.state or b.last_error is distinct from f.last_error or b.created + b.modified + b.deleted > 0)
)
select b.created, b.modified, b.deleted, b.told_position, coalesce((select l.epoch from record_log l where l.customer_id = $1), 0) as epoch
from before b, finished
