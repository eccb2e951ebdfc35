-- $1 connection. How many meters it has. Until the transaction ends nobody else counts: the walk of the history and the scan add meters side by side.
select coalesce(meter_count, (select count(*) from meter_mapping m where m.connection_id = c.connection_id))::bigint
from connection c where c.connection_id = $1
for no key update
