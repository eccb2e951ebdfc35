-- $1 replica, $2 seconds after which a silent replica counts as gone. The number of replicas that are here, this one included.
with seen as (
    insert into announced_replica (replica_id) values ($1) on conflict (replica_id) do update set last_seen_at = now() returning replica_id
), gone as (
    delete from announced_replica where last_seen_at < now() - in_seconds(100 * $2) and replica_id <> $1
)
select 1 + count(*) from announced_replica where replica_id <> $1 and last_seen_at >= now() - in_seconds($2) and exists (select from seen)
