-- $1 connection, $2 customer, $3 system, $4 hosting, $5 tier, $6 digest, $7 delivery. The state as it is now, and whether the
-- declaration (settings or credentials) changed. A customer of a declared connection is a customer.
with before as (select declared_digest from connection where connection_id = $1)
insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest, delivery)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (connection_id) do update
    set hosting = excluded.hosting, tier = excluded.tier, declared_digest = excluded.declared_digest, delivery = excluded.delivery
returning customer_id, system, state, coalesce((select declared_digest <> $6 from before), true) as changed
