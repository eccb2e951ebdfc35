-- $1 id, $2 hash, $3 name, $4 role, $5 customer or null, $6 expires or null. No row when a token of that name is in use.
insert into api_token (token_id, hash, name, role, customer_id, expires_at) values ($1, $2, $3, $4, $5, $6)
on conflict (name) where revoked_at is null do nothing
returning token_id
