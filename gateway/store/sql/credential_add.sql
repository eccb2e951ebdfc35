-- $1 connection, $2 generation, $3 type, $4 sealed, $5 when it expires or null, $6 origin.
insert into credential (connection_id, generation, type, sealed, expires_at, origin) values ($1, $2, $3, $4, $5, $6)
