-- $1 customers, $2 devices, $3 when each is looked at again. Those that were silent and have sent are not any more; returns them.
with locked as materialized (
    select s.customer_id, s.device_id, g.due_at
    from unnest($1::text[], $2::text[], $3::timestamptz[]) as g (customer_id, device_id, due_at)
    join device_state s on s.customer_id = g.customer_id and s.device_id = g.device_id
    where s.silent_since < s.last_seen_at
    order by s.customer_id, s.device_id
    for update of s
)
update device_state s set silent_since = null, due_at = l.due_at, version = s.version + 1, changed_at = clock_timestamp()
from locked l
where s.customer_id = l.customer_id and s.device_id = l.device_id and s.silent_since is not null
returning s.customer_id, s.device_id, s.last_seen_at
