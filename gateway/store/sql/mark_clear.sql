-- $1 customer.
delete from customer_mark where customer_id = $1
