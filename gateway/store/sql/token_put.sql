-- $1 connection, $2 generation, $3 sealed, $4 seconds to live, $5 seconds until it is refreshed, $6 seconds that the refresh token lives,
-- or null where that was not said. The first token of a generation.
insert into token (connection_id, generation, sealed, serial, obtained_at, expires_at, refresh_at, refresh_expires_at)
values ($1, $2, $3, 1, now(), now() + in_seconds($4), now() + in_seconds($5), now() + in_seconds($6))
