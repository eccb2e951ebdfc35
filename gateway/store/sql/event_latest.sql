-- $1 customer, $2 connection, $3 types (null: any of each), $4 since when, $5 limit. The latest events that have their place in the order of readers, the newest first.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where revision is not null and at >= $4
  and ($1::text is null or customer_id = $1) and ($2::text is null or connection_id = $2) and ($3::text[] is null or type = any ($3))
order by revision desc, position desc
limit $5
