-- $1 connection, $2 generation, $3 fence, $4 sealed, $5 seconds to live, $6 seconds until it is refreshed, $7 seconds that the refresh
-- token lives, or null where that was not said. Frees the lease. The serial, or no row where the fence is not ours any more.
update token
set sealed = $4,
    serial = serial + 1,
    obtained_at = now(),
    expires_at = now() + in_seconds($5),
    refresh_at = now() + in_seconds($6),
    refresh_is_fixed = refresh_expires_at is not null
                       and coalesce(now() + in_seconds($7), refresh_expires_at) <= refresh_expires_at + interval '1 minute',
    announced_days = case when coalesce(now() + in_seconds($7), refresh_expires_at) > refresh_expires_at + interval '1 minute'
                          then null else announced_days end,
    refresh_expires_at = coalesce(now() + in_seconds($7), refresh_expires_at),
    refused = null,
    lease_owner = null,
    lease_until = null
where connection_id = $1 and generation = $2 and fence = $3
returning serial
