-- $1 replica.
delete from announced_replica where replica_id = $1
