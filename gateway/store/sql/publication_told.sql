-- $1 customer, $2 position. Everything up to it is told.
insert into record_publication as p (customer_id, position) values ($1, $2)
on conflict (customer_id) do update set position = greatest(p.position, excluded.position)
