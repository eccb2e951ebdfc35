-- $1 customer. How many of its tokens are in use.
select count(*) from api_token where customer_id = $1 and revoked_at is null and (expires_at is null or expires_at > now())
