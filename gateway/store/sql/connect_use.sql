-- $1 link, $2 connection. No row when it is used, revoked or too old: of two at once one uses it.
update connect_link set connection_id = $2
where link_id = $1 and connection_id is null and revoked_at is null and expires_at > now()
returning link_id
