-- $1 customers, $2 devices, $3 the versions that the broker has. What has changed since stays untold.
with locked as materialized (
    select state.place, given.version
    from (select * from unnest($1::text[], $2::text[], $3::int[]) as given (customer_id, device_id, version) order by customer_id, device_id) given
    cross join lateral (
        select state.ctid as place from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id and state.told <> given.version for update
    ) state
)
update device_state state set told = locked.version
from locked
where state.ctid = any (array(select place from locked)) and state.ctid = locked.place
