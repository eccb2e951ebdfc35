-- $1 lives whose lock was free. Replicas that have nothing leased any more are forgotten.
delete from replica r
where r.life = any($1) and pg_try_advisory_xact_lock_shared(r.life)
  and not exists (
      select from lease
      where lease_until > now() and (owner = r.replica_id or starts_with(owner, r.replica_id || '/'))
  )
  and not exists (select from stream where lease_until > now() and lease_owner = r.replica_id)
  and not exists (select from inbound_stream where lease_until > now() and lease_owner = r.replica_id)
  and not exists (select from alert_stream where lease_until > now() and lease_owner = r.replica_id)
