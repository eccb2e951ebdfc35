-- $1 connection, $2 from state, $3 to state, $4 trigger, $5 reason, $6 actor, $7 request id, $8 prior state to remember (null: forget),
-- $9 operation whose failure leads there (null: the one that is known), $10 seconds to the first look at it there.
-- An active connection has no reason: whatever led there is no longer so. One that is resumed has the reason of before its pause.
-- The transition itself with its audit row; the caller holds the row. What probes count begins anew, and where somebody has changed
-- something (a pause, a new credential) so do the failures in a row.
with moved as (
    update connection
    set state = $3,
        reason = case
            when $3 = 'active' then null
            when $4 = 'resume_asked' then (
                select a.reason from connection_audit a
                where a.connection_id = $1 and a.to_state = $3 and a.trigger <> 'resume_asked'
                order by a.at desc, a.audit_id desc
                limit 1
            )
            else $5
        end,
        since = now(), version = version + 1, request_id = $7, prior_state = $8,
        operation = case when $3 <> 'active' then coalesce($9, operation) end,
        recovered_at = case when $2 = 'degraded' and $3 = 'active' then now() else recovered_at end,
        probe_at = now() + in_seconds($10), probe_attempts = 0,
        verify_until = case when $3 = 'verifying' then now() + interval '15 minutes' end
    where connection_id = $1
    returning since, version
), anew as (
    update call_health set failing_since = null, failures = 0, suspect_since = null, denied_since = null
    where connection_id = $1 and $3 in ('paused', 'verifying')
), audited as (
    insert into connection_audit (connection_id, from_state, to_state, trigger, reason, actor, request_id)
    values ($1, $2, $3, $4, $5, $6, $7)
)
select since, version from moved
