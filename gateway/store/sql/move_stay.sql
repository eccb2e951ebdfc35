-- $1 customer that is about to leave: it does not, and stands where it stood. One that never moved is in force here.
update customer_move set
    state = coalesce(stood_state, 'arrived'), move_id = coalesce(stood_move, move_id), position = coalesce(stood_position, position), is_whole = true, since = now(),
    stood_state = null, stood_move = null, stood_position = null
where customer_id = $1 and state = 'leaving'
