-- $1 hash. The link as it stands.
select link_id, customer_id, systems, created_at, created_by, expires_at, revoked_at, connection_id, sealed, expires_at > now() as is_fresh
from connect_link where hash = $1
