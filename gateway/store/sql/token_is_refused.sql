-- $1 connection, $2 generation. No row before the first claim.
select refused is not null from token where connection_id = $1 and generation = $2
