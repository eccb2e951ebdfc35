-- $1 customer.
select count(*) from device where customer_id = $1
