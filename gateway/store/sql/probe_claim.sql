-- $1 seconds until another replica may take over, $2 how many, $3 how many of those whose credential works. Connections that are to be looked at
-- now, each by one replica: those somebody waits for first, and of the others no more than are due by the rhythm.
with wanted as materialized (
    select connection_id from connection
    where probe_at <= now()
      and (state in ('verifying', 'disconnecting') or (candidate is not null and state in ('pending', 'reauthorization_required')))
    order by probe_at
    limit $2
    for update skip locked
), others as materialized (
    select connection_id from connection
    where probe_at <= now() and state in ('active', 'degraded', 'blocked')
    order by probe_at
    limit least($3, $2 - (select count(*) from wanted))
    for update skip locked
)
update connection c
set probe_at = now() + in_seconds($1)
from (select connection_id from wanted union all select connection_id from others) due
where c.connection_id = due.connection_id
returning c.connection_id, c.state, c.generation, c.candidate, c.configuration, c.candidate is not null or c.in_use is not null as is_offered, c.operation, c.probe_attempts, c.verify_until <= now() as verified_long_enough
