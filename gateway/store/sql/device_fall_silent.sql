-- $1 customers, $2 devices, $3 the last message of each as it was seen. Those that have sent nothing since are silent now; returns them.
with locked as materialized (
    select state.place
    from (select * from unnest($1::text[], $2::text[], $3::timestamptz[]) as given (customer_id, device_id, seen_at) order by customer_id, device_id) given
    cross join lateral (select state.*, state.ctid as place from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id and state.silent_since is null and state.last_seen_at = given.seen_at for update) state
)
update device_state state set silent_since = state.last_seen_at, due_at = null, version = state.version + 1, changed_at = clock_timestamp()
from locked
where state.ctid = any (array(select place from locked)) and state.ctid = locked.place
returning state.customer_id, state.device_id
