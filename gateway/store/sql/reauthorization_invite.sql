-- $1 connection, $2 hash, $3 seconds that it is good for. Takes the place of an earlier link, and ends the flows that it began.
with ended as (
    delete from authorization_flow where connection_id = $1
)
insert into reauthorization_link (connection_id, hash, expires_at) values ($1, $2, now() + in_seconds($3))
on conflict (connection_id) do update
    set hash = excluded.hash, created_at = now(), expires_at = excluded.expires_at, attempts = 0, submitted_at = null
returning expires_at
