-- $1 hash, $2 API token's id or null, $3 name, $4 role, $5 customer or null, $6 seconds that it lasts, $7 issuer, $8 subject and
-- $9 session at the identity provider, or null, $10 how many others one may have open. Sweeps what has expired, and those of the same person or program that were opened first.
with swept as (
    delete from dashboard_session where expires_at < now()
), too_many as (
    delete from dashboard_session where hash in (
        select hash from dashboard_session
        where name = $3 and customer_id is not distinct from $5 and token_id is not distinct from $2
        order by opened_at desc nulls last, hash offset $10
    )
)
insert into dashboard_session (hash, token_id, name, role, customer_id, expires_at, issuer, subject, sid)
values ($1, $2, $3, $4, $5, now() + in_seconds($6), $7, $8, $9)
