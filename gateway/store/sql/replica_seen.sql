-- $1 replica, $2 seconds after which one that is not seen counts as gone. How many replicas live, this one included.
with me as (
    insert into replica (replica_id) values ($1) on conflict (replica_id) do update set last_seen_at = now()
), gone as (
    delete from replica where replica_id <> $1 and last_seen_at < now() - in_seconds(100 * $2)
)
select 1 + count(*) from replica where replica_id <> $1 and last_seen_at > now() - in_seconds($2)
