-- $1 customers, $2 devices, $3 when each is looked at again. Those that were silent and have sent are not any more; returns them.
with locked as materialized (
    select state.place, given.due_at
    from (select * from unnest($1::text[], $2::text[], $3::timestamptz[]) as given (customer_id, device_id, due_at) order by customer_id, device_id) given
    cross join lateral (select state.*, state.ctid as place from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id and state.silent_since < state.last_seen_at for update) state
)
update device_state state set silent_since = null, due_at = locked.due_at, version = state.version + 1, changed_at = clock_timestamp()
from locked
where state.ctid = any (array(select place from locked)) and state.ctid = locked.place
returning state.customer_id, state.device_id, state.last_seen_at
