-- $1 name, $2 customer or null. One of this name that has expired is revoked since then: it keeps the name from no other.
update api_token set revoked_at = expires_at
where name = $1 and customer_id is not distinct from $2 and revoked_at is null and expires_at <= now()
