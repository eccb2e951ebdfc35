-- $1 connection, $2 generation, $3 fence, $4 lease seconds.
update token set lease_until = now() + in_seconds($4)
where connection_id = $1 and generation = $2 and fence = $3 and lease_until is not null
