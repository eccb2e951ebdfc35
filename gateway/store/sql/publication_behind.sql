-- Customers whose records are not all told, with where they are told up to. Asked about once a second.
select l.customer_id, coalesce(p.position, 0) as position
from record_log l left join record_publication p using (customer_id)
where l.position > coalesce(p.position, 0)
