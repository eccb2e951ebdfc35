-- $1 connection, $2 customer, $3 system, $4 hosting, $5 tier, $6 delivery, $7 settings, $8 sync, $9 meters, $10 managed by, $11 price, $12 host, $13 origin, $14 alerts, $15 title.
-- False when the id is taken, for good: also by a connection that was disconnected.
with made as (
    insert into connection (connection_id, customer_id, system, hosting, tier, delivery, settings, sync, meters, managed_by, price, host, declared_digest, origin, alerts, title)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, '', $13, $14, $15)
    on conflict (connection_id) do nothing
    returning true
)
select exists (select from made)
