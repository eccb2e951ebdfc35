-- $1 seconds after which a device is silent, $2 seconds after which it is forgotten. How many devices there are, when the last of them was heard, and those that
-- are silent and not forgotten.
select count(*) as known, max(last_seen_at) as heard_at,
       count(*) filter (where last_seen_at < now() - in_seconds($1) and last_seen_at > now() - in_seconds($2)) as silent,
       (array_agg(customer_id || '/' || device_id order by last_seen_at desc) filter (where last_seen_at < now() - in_seconds($1) and last_seen_at > now() - in_seconds($2)))[1:20] as names
from device_state
