-- $1 customers. Those that have moved to another gateway.
select array_agg(customer_id) from customer_log where customer_id = any($1::text[]) and is_frozen
