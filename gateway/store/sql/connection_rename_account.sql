-- $1 connection, $2 the account as an earlier version of its connector called it, $3 as it is called now.
update connection set account = $3::text where connection_id = $1 and account = $2 and $3::text is not null
