-- Every token that was made, the newest first; never its hash.
select token_id, name, role, customer_id, created_at, last_used_at, expires_at, revoked_at from api_token order by created_at desc, token_id
