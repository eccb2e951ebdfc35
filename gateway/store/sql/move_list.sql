-- Every customer that ever moved.
select customer_id, state, move_id, position, cut, is_whole from customer_move order by customer_id
