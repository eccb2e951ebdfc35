-- $1 hash of the secret, $2 customer, $3 systems, $4 who made it, $5 seconds that it is good for, $6 sealed.
insert into connect_link (hash, customer_id, systems, created_by, expires_at, sealed)
values ($1, $2, $3, $4, now() + in_seconds($5), $6)
returning link_id, expires_at
