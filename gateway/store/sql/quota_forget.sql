-- $1 customer.
delete from quota_excess where customer_id = $1
