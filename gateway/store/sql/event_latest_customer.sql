-- $1 types, $2 connection (null: any of each), $3 since when, $4 limit, $5 customer, null for that of the connection. As event_latest, of this one. It is bounded by a
-- row, and not by equality, so that only its own index has the order.
select e.position, e.event_id, e.type, e.customer_id, e.connection_id, e.lane, e.at, e.data, e.request_id
from (select coalesce($5::text, (select customer_id from connection where connection_id = $2)) as customer_id offset 0) own
cross join lateral (
    select * from event
    where customer_id >= own.customer_id and (customer_id, revision, position) < (own.customer_id, 9223372036854775807, 0)
      and at >= $3 and ($1::text[] is null or type = any ($1)) and ($2::text is null or connection_id = $2)
    order by customer_id desc, revision desc, position desc
    limit $4
) e
