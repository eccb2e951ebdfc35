-- $1 customers, $2 days, $3 bytes that were written of them. A day that retention dropped meanwhile stays dropped. In one order, as all writers lock them; by key, for one that ingest changed while we waited is another row.
update customer_day d set bytes = d.bytes + g.bytes
from (
    select c.customer_id, c.day, given.bytes
    from unnest($1::text[], $2::date[], $3::bigint[]) as given (customer_id, day, bytes)
    join customer_day c on c.customer_id = given.customer_id and c.day = given.day
    order by c.customer_id collate "C", c.day
    for no key update of c
) g
where d.customer_id = g.customer_id and d.day = g.day
