-- $1 customer. Nobody else writes to its log until the transaction ends.
select from customer_log where customer_id = $1 for update
