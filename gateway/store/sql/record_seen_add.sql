-- $1 customer, $2 connection, $3 stream, $4 keys. A walk of all keys has seen them.
insert into record_seen (customer_id, connection_id, stream, key) select $1, $2, $3, key from unnest($4::text[]) as page (key) on conflict do nothing
