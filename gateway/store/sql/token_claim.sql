-- $1 connection, $2 generation, $3 owner, $4 lease seconds, $5 fence of a lease that was seen to have run out, or null.
-- One row with what the lease's holder may know, none while another holds it.
-- The row is written anew, which proves before anything is asked for that what comes back can be stored. A lease that ran out is taken
-- only from whoever was seen to let it: after a time when the database was away its holder may still have a new token to store.
insert into token as held (connection_id, generation, lease_owner, lease_until, fence)
values ($1, $2, $3, now() + in_seconds($4), 1)
on conflict (connection_id, generation) do update
    set lease_owner = excluded.lease_owner,
        lease_until = excluded.lease_until,
        fence = held.fence + 1
    where held.lease_until is null or (held.lease_until <= now() and held.fence = $5)
returning fence, sealed, serial, refused,
          extract(epoch from refresh_at - clock_timestamp())::float8 as refresh_in,
          extract(epoch from expires_at - clock_timestamp())::float8 as expires_in
