-- $1 client id, $2 filters: what the session holds from now on.
with gone as (delete from ingest_subscription where client_id = $1 and filter <> all($2))
insert into ingest_subscription (client_id, filter) select $1, unnest($2::text[]) on conflict do nothing
