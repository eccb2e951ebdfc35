-- $1 connection. How many meters it has; counted only where that is not kept yet.
select coalesce(meter_count, (select count(*) from meter_mapping m where m.connection_id = c.connection_id))::bigint
from connection c where c.connection_id = $1
