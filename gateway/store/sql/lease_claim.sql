-- $1 name, $2 owner, $3 seconds. One row with the fence when the lease is ours now, none while another holds it.
-- Who writes under a lease locks its row `for key share` until the commit. A renewal changes no key, so the two pass each other. Whoever takes
-- the lease wants the row whole, and leaves it where that is not to be had: either the take-over comes after the commit, or the proof fails.
with renewed as (
    update lease set lease_until = now() + in_seconds($3) where name = $1 and owner = $2 returning fence
), free as (
    select name from lease
    where name = $1 and (owner is null or (owner <> $2 and lease_until <= now()))
    for update skip locked
), taken as (
    update lease l set owner = $2, lease_until = now() + in_seconds($3), fence = l.fence + 1
    from free where l.name = free.name
    returning l.fence
), made as (
    insert into lease (name, owner, lease_until, fence)
    select $1, $2, now() + in_seconds($3), 1 where not exists (select from lease where name = $1)
    on conflict do nothing
    returning fence
)
select fence from renewed union all select fence from taken union all select fence from made
