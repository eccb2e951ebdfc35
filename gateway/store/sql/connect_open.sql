-- $1 customer. How many of its links are still good.
select count(*) from connect_link where customer_id = $1 and connection_id is null and revoked_at is null and expires_at > now()
