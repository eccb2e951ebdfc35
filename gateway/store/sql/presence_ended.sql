-- $1 this replica. The lives of the other replicas, and whether the session of each has ended: nobody holds its lock any more. The trial of the lock ends
-- with the statement.
select life, pg_try_advisory_xact_lock_shared(life) as is_over from replica where life is not null and replica_id <> $1
