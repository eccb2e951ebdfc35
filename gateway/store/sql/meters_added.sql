-- $1 connection, $2 how many meters it has now.
update connection set meter_count = $2 where connection_id = $1
