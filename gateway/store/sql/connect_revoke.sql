-- $1 link, $2 customer or null for all. What was entered through it is forgotten. No row where there is none that could be used.
with revoked as (
    update connect_link set revoked_at = now()
    where link_id = $1 and ($2::text is null or customer_id = $2) and revoked_at is null and connection_id is null
    returning link_id
), forgotten as (
    delete from connect_draft where link_id in (select link_id from revoked)
)
select link_id from revoked
