-- $1 id, or the name that one in use has. Ends the token, and by its row every session that came by it. No row where there is none, or several have the name.
update api_token set revoked_at = now()
where revoked_at is null and token_id = coalesce(
    (select token_id from api_token where token_id = $1 and revoked_at is null),
    (select max(token_id) from api_token where name = $1 and revoked_at is null having count(*) = 1)
)
returning token_id
