-- $1 customer, $2 stage, $3 move, $4 where the log ended at the mark (null: not known), $5 whether it was in force here. Where its log ends.
insert into customer_move as held (customer_id, state, move_id, position, cut, is_whole, is_kept)
values ($1, $2, $3, coalesce((select position from customer_log where customer_id = $1), 0), $4, $5, $2 = 'left' and $5)
on conflict (customer_id) do update set
    state = excluded.state, move_id = excluded.move_id, position = excluded.position, cut = excluded.cut, is_whole = excluded.is_whole, since = now(),
    -- of one that is about to come back, or to leave again, as it was
    is_kept = case when excluded.state in ('expected', 'leaving') then held.is_kept else excluded.is_kept end
