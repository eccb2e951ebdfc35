-- $1 connection, $2 name, $3 phase, $4 batch id, $5 readings.
insert into push_intent (connection_id, name, phase, batch_id, readings) values ($1, $2, $3, $4, $5)
