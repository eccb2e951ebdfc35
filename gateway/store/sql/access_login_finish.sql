-- $1 hash of the state, $2 until when its answer is good. No row when it was finished before. Sweeps what has expired.
with swept as (
    delete from finished_login where void_at < now() - interval '1 hour'
)
insert into finished_login (state_hash, void_at) values ($1, $2) on conflict do nothing returning state_hash
