-- $1 customer, $2 connections, $3 streams, $4 keys, one array a column, $5 whether the broker keeps them.
update record r set retained = $5
from unnest($2::text[], $3::text[], $4::text[]) as told (connection_id, stream, key)
where (r.customer_id, r.connection_id, r.stream, r.key) = ($1, told.connection_id, told.stream, told.key) and r.retained <> $5
