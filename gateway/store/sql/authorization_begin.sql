-- $1 hash of the state, $2 hash of the link, $3 hash of the browser's cookie, $4 sealed, $5 seconds. No row when the link is not open. Sweeps.
with swept as (
    delete from authorization_flow where expires_at < now()
)
insert into authorization_flow (state_hash, connection_id, link_hash, browser_hash, sealed, expires_at)
select $1, connection_id, hash, $3, $4, now() + in_seconds($5) from reauthorization_link where hash = $2 and expires_at > now()
returning connection_id
