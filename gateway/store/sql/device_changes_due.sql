-- $1 limit. Changes of metrics that are to be told; locked, so that they are told once.
select c.customer_id, c.device_id, c.changes, d.title, d.source
from device_change c join device d using (customer_id, device_id)
where c.due_at <= now()
order by c.due_at
limit $1
for update of c skip locked
