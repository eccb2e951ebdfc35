-- $1 connection, $2 name, $3 phase.
select not exists (select from push_intent where (connection_id, name, phase) = ($1, $2, $3))
