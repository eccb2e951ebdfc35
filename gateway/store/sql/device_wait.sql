-- $1 customers, $2 devices, $3 when each is looked at again, $4 whether its messages are taken, $5 since when, where they were not before (null: as it was),
-- $6 when a sample that is stored was received that was not told (null: none).
-- By key and locked in its order, as whoever writes devices: they never wait for each other in a circle. Then by place, for whatever the planner thinks of, not all
-- devices are read; one that was written since it was read stays due, and is looked at again.
with locked as materialized (
    select s.place, g.due_at, g.is_watched, g.watched_at, g.newest_at
    from (
        select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[], $5::timestamptz[], $6::timestamptz[])
                      as g (customer_id, device_id, due_at, is_watched, watched_at, newest_at)
        order by customer_id, device_id
    ) g
    cross join lateral (select s.*, s.ctid as place from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id and s.silent_since is null for update) s
)
update device_state s
set due_at = l.due_at, is_watched = l.is_watched, watched_at = coalesce(l.watched_at, s.watched_at), last_seen_at = greatest(s.last_seen_at, l.newest_at)
from locked l
where s.ctid = any (array(select place from locked)) and s.ctid = l.place
