-- $1 seconds of a lease. Leases that run although whoever took them is gone, or that run far longer than a lease does. Commands are no replicas, and end their own.
-- The lock of a life is free when the session of its replica has ended; the trial of it ends with the statement.
with held as (
    select name, owner, lease_until from lease where lease_until > now() and owner is not null
    union all
    select concat_ws('/', 'stream', connection_id, name, phase), lease_owner, lease_until from stream where lease_until > now() and lease_owner is not null
    union all
    select concat_ws('/', 'records', connection_id, stream, phase), lease_owner, lease_until from inbound_stream where lease_until > now() and lease_owner is not null
    union all
    select concat_ws('/', 'alerts', connection_id), lease_owner, lease_until from alert_stream where lease_until > now() and lease_owner is not null
), gone as materialized (
    select replica_id from replica where life is not null and pg_try_advisory_xact_lock_shared(life)
)
select h.name, h.owner, extract(epoch from h.lease_until - now())::float8 as seconds,
       not starts_with(h.owner, 'cli/') and exists (select from gone where h.owner = replica_id or starts_with(h.owner, replica_id || '/')) as is_orphan
from held h
where h.lease_until > now() + in_seconds(20 * $1)
   or (not starts_with(h.owner, 'cli/') and exists (select from gone where h.owner = replica_id or starts_with(h.owner, replica_id || '/')))
order by h.name
limit 100
