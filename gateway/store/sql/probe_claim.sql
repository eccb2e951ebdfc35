-- $1 seconds until another replica may take over, $2 how many. Connections that are to be looked at now, each by one replica.
update connection c
set probe_at = now() + in_seconds($1)
from (
    select connection_id from connection
    where probe_at <= now() and state <> 'disconnected'
      and (state in ('verifying', 'active', 'degraded', 'blocked', 'disconnecting')
           or (candidate is not null and state in ('pending', 'reauthorization_required')))
    order by probe_at
    limit $2
    for update skip locked
) due
where c.connection_id = due.connection_id
returning c.connection_id, c.state, c.generation, c.candidate, c.operation, c.probe_attempts, c.verify_until <= now() as verified_long_enough
