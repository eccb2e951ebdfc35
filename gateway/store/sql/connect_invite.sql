-- $1 hash of the secret, $2 customer, $3 systems, $4 who made it, $5 seconds that it is good for, $6 sealed, $7 how many of the customer's are listed.
-- Those beyond are forgotten, unless they are still good.
with forgotten as (
    delete from connect_link where link_id in (
        select link_id from connect_link where customer_id = $2 order by created_at desc, link_id offset $7
    ) and (connection_id is not null or revoked_at is not null or expires_at <= now())
)
insert into connect_link (hash, customer_id, systems, created_by, expires_at, sealed)
values ($1, $2, $3, $4, now() + in_seconds($5), $6)
returning link_id, expires_at
