-- $1 connection, $2 how many. Alerts for which the system is to be called, oldest first, with a meter of the device that the connection feeds.
select a.*, coalesce(
    (select m.meter from meter_mapping m
     where m.connection_id = a.connection_id and m.device_id = a.device_id
     order by m.metric is distinct from a.metric, m.meter limit 1), '') as meter
from alert a
where a.connection_id = $1 and a.due_at <= now()
order by a.due_at, a.opened_at
limit $2
