-- $1 customers, $2 connections, $3 streams, $4 keys, one array a column. Gone for good.
delete from record r using unnest($1::text[], $2::text[], $3::text[], $4::text[]) as gone (customer_id, connection_id, stream, key)
where (r.customer_id, r.connection_id, r.stream, r.key) = (gone.customer_id, gone.connection_id, gone.stream, gone.key)
