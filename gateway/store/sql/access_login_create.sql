-- $1 hash, $2 name, $3 role, $4 customer or null, $5 seconds that it is good for. Sweeps what has expired.
with swept as (
    delete from login_link where expires_at < now()
)
insert into login_link (hash, name, role, customer_id, expires_at) values ($1, $2, $3, $4, now() + in_seconds($5))
