-- $1 connection, $2 name, $3 phase, $4 batch id.
delete from push_intent where (connection_id, name, phase, batch_id) = ($1, $2, $3, $4)
