-- $1 limit. Changes of metrics that are to be told; locked, so that they are told once.
select device_change.customer_id, device_change.device_id, device_change.changes, device.title, device.source
from device_change join device using (customer_id, device_id)
where device_change.due_at <= now()
order by device_change.due_at
limit $1
for update of device_change skip locked
