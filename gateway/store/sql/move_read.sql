-- $1 customer. Where it stands; locked until the transaction ends.
select customer_id, state, move_id, position, cut, is_whole from customer_move where customer_id = $1 for update
