-- $1 connection, $2 from state, $3 to state, $4 trigger, $5 reason, $6 actor, $7 request id, $8 prior state to remember (null: forget).
-- The transition itself with its audit row; the caller holds the row. What probes count begins anew.
with moved as (
    update connection
    set state = $3, reason = $5, since = now(), version = version + 1, request_id = $7, prior_state = $8,
        probe_at = now(), probe_attempts = 0, failing_since = null, suspect_since = null,
        verify_until = case when $3 = 'verifying' then now() + interval '15 minutes' end
    where connection_id = $1
    returning since, version
), audited as (
    insert into connection_audit (connection_id, from_state, to_state, trigger, reason, actor, request_id)
    values ($1, $2, $3, $4, $5, $6, $7)
)
select since, version from moved
