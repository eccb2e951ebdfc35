-- $1 connection, $2 name, $3 phase, $4 batch id, $5 the readings whose outcome is still unknown.
update push_intent set readings = $5, sent_at = now() where (connection_id, name, phase, batch_id) = ($1, $2, $3, $4)
