-- $1 connection, $2 generation, $3 when it ends, or null. Another end is announced anew.
update credential set expires_at = $3, announced_days = null
where connection_id = $1 and generation = $2 and expires_at is distinct from $3
