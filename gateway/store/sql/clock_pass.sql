-- $1 connection, $2 a position that the system holds. What is given out from now on is later.
insert into delivery_clock as last (connection_id, position) values ($1, $2)
on conflict (connection_id) do update set position = greatest(last.position, excluded.position)
