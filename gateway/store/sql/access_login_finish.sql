-- $1 hash of a login's state, or of what a logout is named by; $2 until when it is good. No row when it was there before. Sweeps what has expired.
with swept as (
    delete from finished_login where void_at < now() - interval '1 hour'
)
insert into finished_login (state_hash, void_at) values ($1, $2) on conflict do nothing returning state_hash
