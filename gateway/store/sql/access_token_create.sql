-- $1 id, $2 hash, $3 name, $4 role, $5 customer or null, $6 expires or null, $7 how many of the customer's that have ended are kept.
-- No row when a token of that name is in use, of this customer or (null) of none.
with forgotten as (
    delete from api_token where token_id in (
        select token_id from api_token
        where customer_id = $5 and (revoked_at is not null or expires_at < now())
        order by created_at desc, token_id offset $7
    )
)
insert into api_token (token_id, hash, name, role, customer_id, expires_at) values ($1, $2, $3, $4, $5, $6)
on conflict (customer_id, name) where revoked_at is null do nothing
returning token_id
