-- $1 customers, $2 devices, $3 the versions that the broker has. What has changed since stays untold.
with locked as materialized (
    select s.place, g.version
    from (select * from unnest($1::text[], $2::text[], $3::int[]) as g (customer_id, device_id, version) order by customer_id, device_id) g
    cross join lateral (
        select s.ctid as place from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id and s.told <> g.version for update
    ) s
)
update device_state s set told = l.version
from locked l
where s.ctid = any (array(select place from locked)) and s.ctid = l.place
