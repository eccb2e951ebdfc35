-- $1 connection, $2 name, $3 phase, $4 position. Whether the intent of this batch still stands.
select exists (select from push_intent where (connection_id, name, phase, position) = ($1, $2, $3, $4))
