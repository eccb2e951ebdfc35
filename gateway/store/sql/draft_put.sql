-- $1 hash, $2 link or null, $3 owner, $4 customer, $5 sealed, $6 seconds. A login that is under way stays so. Sweeps.
with swept as (
    delete from connect_draft where expires_at < now() and hash <> $1
)
insert into connect_draft (hash, link_id, owner, customer_id, sealed, expires_at) values ($1, $2, $3, $4, $5, now() + in_seconds($6))
on conflict (hash) do update set customer_id = excluded.customer_id, sealed = excluded.sealed, expires_at = excluded.expires_at
where connect_draft.owner = excluded.owner
returning true
