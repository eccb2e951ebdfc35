-- $1 customers, $2 days, $3 bytes that were written of them. A day that retention dropped meanwhile stays dropped. In one order, as all writers lock them.
update customer_day d set bytes = d.bytes + g.bytes
from (
    select c.ctid as place, given.bytes
    from unnest($1::text[], $2::date[], $3::bigint[]) as given (customer_id, day, bytes)
    join customer_day c on c.customer_id = given.customer_id and c.day = given.day
    order by c.customer_id collate "C", c.day
    for no key update of c
) g
where d.ctid = g.place
