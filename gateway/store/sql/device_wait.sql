-- $1 customers, $2 devices, $3 when each is looked at again, $4 whether its messages are taken, $5 what its silence counts from anew (null: as before), $6 its
-- last message as it was seen, $7 when a sample that is stored was received that was not told (null: none).
with locked as materialized (
    select s.customer_id, s.device_id, g.due_at, g.is_watched, g.unheard, g.seen_at, g.newest_at
    from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[], $5::float8[], $6::timestamptz[], $7::timestamptz[])
         as g (customer_id, device_id, due_at, is_watched, unheard, seen_at, newest_at)
    join device_state s on s.customer_id = g.customer_id and s.device_id = g.device_id
    where s.silent_since is null
    order by s.customer_id, s.device_id
    for update of s
)
update device_state s
set due_at = l.due_at, is_watched = l.is_watched, last_seen_at = greatest(s.last_seen_at, l.newest_at),
    unheard = case when l.unheard is not null and s.last_seen_at = l.seen_at then l.unheard else s.unheard end
from locked l
where s.customer_id = l.customer_id and s.device_id = l.device_id
