-- $1 replica.
delete from replica where replica_id = $1
