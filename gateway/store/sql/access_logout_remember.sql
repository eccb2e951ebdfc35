-- $1 issuer, $2 subject or null, $3 session at the identity provider or null, $4 when it said so by its own clock, $5 seconds that a login may be on its way. Sweeps what has expired.
with swept as (
    delete from finished_logout where void_at < now()
)
insert into finished_logout (issuer, subject, sid, issued_at, void_at) values ($1, $2, $3, $4, now() + in_seconds($5))
