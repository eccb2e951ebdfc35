-- $1 customer, $2 connection, $3 stream, $4 position when the walk began. Remembers which records the walk has missed (1: for the first time, 2: again, which
-- a person is told), and which it has found again (0).
update record r set unseen = case when s.key is not null then 0 when o.unseen = 0 then 1 else 2 end
from record o
left join record_seen s on (s.customer_id, s.connection_id, s.stream, s.key) = ($1, $2, $3, o.key)
where (o.customer_id, o.connection_id, o.stream) = ($1, $2, $3) and not o.deleted and o.revision <= $4
  and case when s.key is null then o.unseen < 2 else o.unseen > 0 end
  and (r.customer_id, r.connection_id, r.stream, r.key) = ($1, $2, $3, o.key)
