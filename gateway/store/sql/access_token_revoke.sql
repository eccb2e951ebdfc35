-- $1 id or name. Ends the token, and by its row every session that came by it.
update api_token set revoked_at = now() where (token_id = $1 or name = $1) and revoked_at is null returning token_id
