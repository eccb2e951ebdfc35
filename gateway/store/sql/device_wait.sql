-- $1 customers, $2 devices, $3 when each is looked at again, $4 whether its messages are taken, $5 since when, where they were not before (null: as it was),
-- $6 when a sample that is stored was received that was not told (null: none).
-- By key and locked in its order, as whoever writes devices: they never wait for each other in a circle. Then by place, for whatever the planner thinks of, not all
-- devices are read; one that was written since it was read stays due, and is looked at again.
with locked as materialized (
    select state.place, given.due_at, given.is_watched, given.watched_at, given.newest_at
    from (
        select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[], $5::timestamptz[], $6::timestamptz[])
                      as given (customer_id, device_id, due_at, is_watched, watched_at, newest_at)
        order by customer_id, device_id
    ) given
    cross join lateral (select state.*, state.ctid as place from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id and state.silent_since is null for update) state
)
update device_state state
set due_at = locked.due_at, is_watched = locked.is_watched, watched_at = coalesce(locked.watched_at, state.watched_at), last_seen_at = greatest(state.last_seen_at, locked.newest_at)
from locked
where state.ctid = any (array(select place from locked)) and state.ctid = locked.place
