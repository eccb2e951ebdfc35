-- Counts of disconnected connections that hold no record any more.
delete from inbound_count n using connection c
where c.connection_id = n.connection_id and c.state = 'disconnected'
  and not exists (select from record r where (r.customer_id, r.connection_id, r.stream) = (n.customer_id, n.connection_id, n.stream))
