-- $1 connection, $2 generation.
select generation, type, sealed, created_at, expires_at, origin from credential where connection_id = $1 and generation = $2
