-- $1 hash, $2 API token's id or null, $3 name, $4 role, $5 customer or null, $6 seconds that it lasts, $7 to $9 issuer, subject and session at the identity provider, or null. Sweeps what has expired.
with swept as (
    delete from dashboard_session where expires_at < now()
)
insert into dashboard_session (hash, token_id, name, role, customer_id, expires_at, issuer, subject, sid)
values ($1, $2, $3, $4, $5, now() + in_seconds($6), $7, $8, $9)
