-- $1 customer, $2 connection, $3 stream, $4 position when the walk began. Remembers which records the walk has missed, and which it has found again.
update record r set unseen = case when s.key is null then 1 else 0 end
from record o
left join record_seen s on (s.customer_id, s.connection_id, s.stream, s.key) = ($1, $2, $3, o.key)
where (o.customer_id, o.connection_id, o.stream) = ($1, $2, $3) and not o.deleted and o.revision <= $4 and (s.key is null) <> (o.unseen > 0)
  and (r.customer_id, r.connection_id, r.stream, r.key) = ($1, $2, $3, o.key)
