-- $1 customer or null for all, $2 limit. The newest first.
select link_id, customer_id, systems, created_at, created_by, expires_at, revoked_at, connection_id, expires_at > now() as is_fresh
from connect_link
where ($1::text is null or customer_id = $1)
order by created_at desc, link_id
limit $2
