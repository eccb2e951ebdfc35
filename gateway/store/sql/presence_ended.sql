-- $1 this replica. The lives of replicas whose session has ended: nobody holds their lock any more. The trial of the lock ends with the statement.
select life from replica where life is not null and replica_id <> $1 and pg_try_advisory_xact_lock_shared(life)
