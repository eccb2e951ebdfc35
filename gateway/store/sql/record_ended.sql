-- $1 limit. Records of connections that are disconnected, to be removed.
select r.customer_id, r.connection_id, r.stream, r.key, r.retained
from connection c
cross join lateral (
    select n.customer_id, n.connection_id, n.stream from inbound_count n where n.customer_id = c.customer_id and n.connection_id = c.connection_id
) n
join record r on (r.customer_id, r.connection_id, r.stream) = (n.customer_id, n.connection_id, n.stream)
where c.state = 'disconnected'
limit $1
