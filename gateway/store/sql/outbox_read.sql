-- $1 position of the last event that was read, $2 most events. Those that have their place in the order of readers.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where (revision, position) > (coalesce((select revision from event where position = $1), 0), $1)
order by revision, position
limit $2
