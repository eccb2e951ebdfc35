-- $1 connection, $2 fence, $3 seconds to the next run, $4 seconds until the system may be called, $5 attempts, $6 runs in a row that the system put off,
-- $7 the position up to which records were looked at (null: as far as before).
-- False when the lease was lost.
with finished as (
    update alert_stream
    set next_run_at = now() + in_seconds($3), calls_at = now() + in_seconds($4), attempts = $5, put_off = $6, followed = coalesce($7, followed), lease_owner = null, lease_until = null
    where (connection_id, fence) = ($1, $2)
    returning true
)
select exists (select from finished)
