-- $1 replica, $2 seconds after which one that is not seen counts as gone. It takes no share of the partitions from now on.
update replica set last_seen_at = now() - in_seconds($2) where replica_id = $1
