-- $1 customer.
select topic, position from customer_mark where customer_id = $1
