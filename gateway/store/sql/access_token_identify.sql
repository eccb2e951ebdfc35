-- $1 hash. Whose token it is, while it is good; notes the use at most every five minutes.
with found as (
    select token_id, hash, name, role, customer_id, last_used_at
    from api_token where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())
), used as (
    update api_token set last_used_at = now()
    where token_id = (select token_id from found where last_used_at is null or last_used_at < now() - interval '5 min')
)
select token_id, hash, name, role, customer_id from found
