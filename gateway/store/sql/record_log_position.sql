-- $1 customer. The position of its log.
select coalesce((select position from record_log where customer_id = $1), 0)
