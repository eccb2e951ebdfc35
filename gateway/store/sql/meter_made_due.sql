-- $1 connection, $2 how many. Meters that the system is to be asked for now, with what they are fed by.
select w.meter, w.attempts, m.device_id, m.metric, m.unit
from meter_made w
join meter_mapping m on m.connection_id = w.connection_id and m.meter = w.meter
where w.connection_id = $1 and w.due_at <= now()
order by w.due_at, w.meter
limit $2
