-- $1 client id, $2 broker, $3 filters: what its session there holds from now on. $4: brokers of which nothing is forgotten.
with gone as (delete from ingest_subscription where client_id = $1 and case broker when $2 then filter <> all($3) else broker <> all($4) end)
insert into ingest_subscription (client_id, broker, filter) select $1, $2, unnest($3::text[]) on conflict do nothing
