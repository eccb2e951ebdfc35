-- $1 hash, $2 link or null, $3 owner, $4 customer, $5 sealed, $6 seconds, $7 how many others one customer's people, or its operators, may have.
-- A login that is under way stays so. Sweeps what is over, and those that are left behind: the ones that were touched first.
with swept as (
    delete from connect_draft where expires_at < now() and hash <> $1
), left_behind as (
    delete from connect_draft where hash in (
        select hash from connect_draft
        where customer_id = $4 and link_id is null and split_part(owner, ':', 1) = split_part($3, ':', 1) and hash <> $1
        order by expires_at desc, hash offset $7
    )
)
insert into connect_draft (hash, link_id, owner, customer_id, sealed, expires_at) values ($1, $2, $3, $4, $5, now() + in_seconds($6))
on conflict (hash) do update set customer_id = excluded.customer_id, sealed = excluded.sealed, expires_at = excluded.expires_at
where connect_draft.owner = excluded.owner
returning true
