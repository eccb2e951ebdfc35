-- $1 customers, $2 devices, $3 when each is looked at again. Those that were silent and have sent are not any more; returns them.
with locked as materialized (
    select s.place, g.due_at
    from (select * from unnest($1::text[], $2::text[], $3::timestamptz[]) as g (customer_id, device_id, due_at) order by customer_id, device_id) g
    cross join lateral (select s.*, s.ctid as place from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id and s.silent_since < s.last_seen_at for update) s
)
update device_state s set silent_since = null, due_at = l.due_at, version = s.version + 1, changed_at = clock_timestamp()
from locked l
where s.ctid = any (array(select place from locked)) and s.ctid = l.place
returning s.customer_id, s.device_id, s.last_seen_at
