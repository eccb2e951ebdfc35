-- $1 customer, $2 move, $3 whether it was in force here. It is about to leave; where it stood before is kept, also where it was about to leave already.
insert into customer_move as held (customer_id, state, move_id, position, is_whole)
values ($1, 'leaving', $2, coalesce((select position from customer_log where customer_id = $1), 0), $3)
on conflict (customer_id) do update set
    state = excluded.state, move_id = excluded.move_id, position = excluded.position, cut = null, is_whole = excluded.is_whole, since = now(),
    stood_state = case when held.state = 'leaving' then held.stood_state else held.state end,
    stood_move = case when held.state = 'leaving' then held.stood_move else held.move_id end,
    stood_position = case when held.state = 'leaving' then held.stood_position else held.position end
