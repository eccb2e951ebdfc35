-- $1 customer. Whether what was in force of it when it left is kept aside.
select is_kept from customer_move where customer_id = $1
