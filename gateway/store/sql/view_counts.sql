-- $1 customer or null, $2 a text in small letters that is looked for ('': anything). Connections by state, read from an index alone.
select state, count(*) as number
from (
    select connection.state from connection
    where $1::text is null and position($2 in lower(connection.connection_id || ' ' || connection.customer_id || ' ' || connection.system || ' ' || coalesce(connection.title, ''))) > 0
    union all
    select connection.state from connection
    where connection.customer_id = $1 and position($2 in lower(connection.connection_id || ' ' || connection.customer_id || ' ' || connection.system || ' ' || coalesce(connection.title, ''))) > 0
) found
group by state
