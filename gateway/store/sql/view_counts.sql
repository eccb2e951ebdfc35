-- $1 customer or null, $2 a text in small letters that is looked for ('': anything). Connections by state, read from an index alone.
select state, count(*) as number
from (
    select c.state from connection c
    where $1::text is null and position($2 in lower(c.connection_id || ' ' || c.customer_id || ' ' || c.system || ' ' || coalesce(c.title, ''))) > 0
    union all
    select c.state from connection c
    where c.customer_id = $1 and position($2 in lower(c.connection_id || ' ' || c.customer_id || ' ' || c.system || ' ' || coalesce(c.title, ''))) > 0
) found
group by state
