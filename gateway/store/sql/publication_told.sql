-- $1 customer, $2 position. Everything up to it is told. Never backwards, but from beyond the log's end.
insert into record_publication as p (customer_id, position) values ($1, $2)
on conflict (customer_id) do update set position = case
    when p.position > (select l.position from record_log l where l.customer_id = $1) then excluded.position
    else greatest(p.position, excluded.position) end
