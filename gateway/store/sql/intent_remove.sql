-- $1 connection, $2 name, $3 phase. What became of the batch is known, or is in doubt by name.
delete from push_intent where (connection_id, name, phase) = ($1, $2, $3)
