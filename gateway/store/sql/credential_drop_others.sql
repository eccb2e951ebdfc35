-- $1 connection, $2 generations that stay. Their tokens and logons go with the others.
delete from credential where connection_id = $1 and generation <> all($2::int[])
