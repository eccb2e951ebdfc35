-- $1 customer, $2 connection, $3 stream. Rows that the connection holds, and records of the stream that are there.
select coalesce(sum(held), 0)::bigint as held, coalesce(sum(alive) filter (where stream = $3), 0)::bigint as alive
from inbound_count where customer_id = $1 and connection_id = $2
