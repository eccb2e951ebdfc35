-- $1 customer. Nobody writes to its log any more. Waits for who does.
insert into customer_log (customer_id, position, is_frozen) values ($1, 0, true)
on conflict (customer_id) do update set is_frozen = true
