-- $1 customer or null, $2 a text in small letters that is looked for ('': anything), $3 states in the order of the list, $4, $5 and $6 the place of the
-- state in it, the customer and the connection after which to go on, $7 limit. Each state's are read in the order of the index and no more than
-- are wanted: without a text to look for, a page costs the same among many.
select found.connection_id, found.customer_id, wanted.place
from unnest($3::text[]) with ordinality as wanted (state, place)
cross join lateral (
    (select connection.connection_id, connection.customer_id
     from connection
     where $1::text is null and connection.state = wanted.state
       and (connection.customer_id, connection.connection_id) > (case when wanted.place = $4 then $5 else '' end, case when wanted.place = $4 then $6 else '' end)
       and position($2 in lower(connection.connection_id || ' ' || connection.customer_id || ' ' || connection.system || ' ' || coalesce(connection.title, ''))) > 0
     order by connection.customer_id, connection.connection_id
     limit $7)
    union all
    (select connection.connection_id, connection.customer_id
     from connection
     where $1::text is not null and connection.state = wanted.state and connection.customer_id = $1
       and connection.connection_id > case when wanted.place = $4 then $6 else '' end
       and position($2 in lower(connection.connection_id || ' ' || connection.customer_id || ' ' || connection.system || ' ' || coalesce(connection.title, ''))) > 0
     order by connection.connection_id
     limit $7)
) found
where wanted.place >= $4
order by wanted.place, found.customer_id, found.connection_id
limit $7
