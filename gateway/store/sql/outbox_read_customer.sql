-- $1 customer, $2 position of the last event that was read, $3 most events. Those that have their place in the order of readers. The customer is bounded by a
-- row, and not by equality, so that only its own index has the order: by that of all events those of everybody would be read on the way.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where customer_id <= $1
  and (customer_id, revision, position) > ($1, coalesce((select revision from event where position = $2), 0), $2)
order by customer_id, revision, position
limit $3
