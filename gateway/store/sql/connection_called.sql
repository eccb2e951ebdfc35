-- $1 connection, $2 seconds to the next probe. The system has answered a call: it need not be probed for a while. The state, for who wants to change it.
with called as (
    update connection
    set probe_at = now() + in_seconds($2), probe_attempts = 0, failing_since = null, suspect_since = null
    where connection_id = $1 and state in ('active', 'degraded')
      and (probe_at < now() + in_seconds($2 / 2) or failing_since is not null or suspect_since is not null)
)
select state from connection where connection_id = $1
