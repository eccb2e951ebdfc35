-- $1 customer. Where its log ends: everything at this position or before it is committed, and nothing appears there later.
select coalesce((select position from customer_log where customer_id = $1), 0)
