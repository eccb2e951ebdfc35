-- $1 lives whose lock was free, $2 seconds after which a replica that is not seen counts as gone. What these replicas had leased runs out now; a lease keeps its owner until another takes it, who raises the fence. Nothing
-- is waited for: what is locked, by a commit that still ends or by the replica itself that comes back under another life, is left to the next look.
-- How many leases ran out.
with gone as (
    select replica_id from replica
    where life = any($1) and pg_try_advisory_xact_lock_shared(life)
    for update skip locked
), silent as (
    update replica r set last_seen_at = least(last_seen_at, now() - in_seconds($2)) from gone where r.replica_id = gone.replica_id
), named as (
    update lease l set lease_until = now()
    from (
        select name from lease join gone on owner = replica_id or starts_with(owner, replica_id || '/')
        where lease_until > now()
        for no key update of lease skip locked
    ) held
    where l.name = held.name
    returning true
), streams as (
    update stream s set lease_until = now()
    from (
        select connection_id, name, phase from stream join gone on lease_owner = replica_id
        where lease_until > now()
        for no key update of stream skip locked
    ) held
    where (s.connection_id, s.name, s.phase) = (held.connection_id, held.name, held.phase)
    returning true
), reading as (
    update inbound_stream s set lease_until = now()
    from (
        select customer_id, connection_id, stream, phase from inbound_stream join gone on lease_owner = replica_id
        where lease_until > now()
        for no key update of inbound_stream skip locked
    ) held
    where (s.customer_id, s.connection_id, s.stream, s.phase) = (held.customer_id, held.connection_id, held.stream, held.phase)
    returning true
), judging as (
    update alert_stream s set lease_until = now()
    from (
        select connection_id from alert_stream join gone on lease_owner = replica_id
        where lease_until > now()
        for no key update of alert_stream skip locked
    ) held
    where s.connection_id = held.connection_id
    returning true
)
select (select count(*) from named) + (select count(*) from streams) + (select count(*) from reading) + (select count(*) from judging)
