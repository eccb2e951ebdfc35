-- $1 connection, $2 generation, $3 fence.
update token set lease_owner = null, lease_until = null
where connection_id = $1 and generation = $2 and fence = $3
