-- $1 customers, $2 devices, $3 the versions that the broker has. What has changed since stays untold.
update device_state s set told = g.version
from unnest($1::text[], $2::text[], $3::int[]) as g (customer_id, device_id, version)
where s.customer_id = g.customer_id and s.device_id = g.device_id and s.told <> g.version
