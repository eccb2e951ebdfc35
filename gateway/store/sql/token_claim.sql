-- $1 connection, $2 generation, $3 owner, $4 lease seconds. One row with what the lease's holder may know, none while another holds it.
-- The row is written anew, which proves before anything is asked for that what comes back can be stored. A lease that ran out while
-- the database was away is not up for taking at once: its holder may be alive, with a new token in hand that waits to be stored.
insert into token as held (connection_id, generation, lease_owner, lease_until, fence)
values ($1, $2, $3, now() + make_interval(secs => $4), 1)
on conflict (connection_id, generation) do update
    set lease_owner = excluded.lease_owner,
        lease_until = excluded.lease_until,
        fence = held.fence + 1
    where held.lease_until is null
       or (held.lease_until <= now() and pg_postmaster_start_time() + make_interval(secs => $4) <= now())
returning fence, sealed, serial, refused,
          extract(epoch from refresh_at - clock_timestamp())::float8 as refresh_in,
          extract(epoch from expires_at - clock_timestamp())::float8 as expires_in
