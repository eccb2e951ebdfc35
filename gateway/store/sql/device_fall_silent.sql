-- $1 customers, $2 devices, $3 the last message of each as it was seen. Those that have sent nothing since are silent now; returns them.
with locked as materialized (
    select s.place
    from (select * from unnest($1::text[], $2::text[], $3::timestamptz[]) as g (customer_id, device_id, seen_at) order by customer_id, device_id) g
    cross join lateral (select s.*, s.ctid as place from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id and s.silent_since is null and s.last_seen_at = g.seen_at for update) s
)
update device_state s set silent_since = s.last_seen_at, due_at = null, version = s.version + 1, changed_at = clock_timestamp()
from locked l
where s.ctid = any (array(select place from locked)) and s.ctid = l.place
returning s.customer_id, s.device_id
