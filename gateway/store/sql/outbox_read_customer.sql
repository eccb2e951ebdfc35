-- $1 customer, $2 position of the last event that was read, $3 most events. Those that have their place in the order of readers.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where customer_id = $1
  and (revision, position) > (coalesce((select revision from event where position = $2), 0), $2)
order by revision, position
limit $3
