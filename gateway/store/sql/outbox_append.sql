-- $1 type, $2 customer, $3 connection, $4 data, $5 request id. The event, and a delivery for each webhook that wants it, also for one that is disabled.
with added as (
    insert into event (type, customer_id, connection_id, lane, data, request_id)
    values ($1, $2, $3, coalesce($3, '/' || $2, '/'), $4, $5)
    returning position, type, lane
)
insert into webhook_delivery (position, endpoint_id, lane)
select added.position, w.endpoint_id, added.lane
from added
join webhook_endpoint w on coalesce(w.customer_id, '') = any (array['', coalesce($2, '')])
where w.types = '{}' or added.type = any (w.types)
