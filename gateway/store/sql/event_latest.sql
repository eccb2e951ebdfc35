-- $1 types (null: any), $2 since when, $3 limit. The latest events that have their place in the order of readers, the newest first.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where revision is not null and at >= $2 and ($1::text[] is null or type = any ($1))
order by revision desc, position desc
limit $3
