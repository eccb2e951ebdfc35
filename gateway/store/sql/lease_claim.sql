-- $1 name, $2 owner, $3 seconds. One row with the fence when the lease is ours now, none while another holds it.
insert into lease as held (name, owner, lease_until, fence)
values ($1, $2, now() + in_seconds($3), 1)
on conflict (name) do update
    set owner = excluded.owner,
        lease_until = excluded.lease_until,
        fence = held.fence + case when held.owner = excluded.owner and held.lease_until > now() then 0 else 1 end
    where held.owner is null or held.owner = excluded.owner or held.lease_until <= now()
returning fence
