-- Customers whose records are not all told, with where they are told up to. Asked about once a second.
-- What was told up to beyond the log's end was told of another log: all of this one is told anew.
select l.customer_id, case when p.position <= l.position then p.position else 0 end as position
from record_log l left join record_publication p using (customer_id)
where l.position <> coalesce(p.position, 0)
