-- $1 customer, $2 the least position at which its log goes on.
with known as (
    insert into customer (customer_id) values ($1) on conflict do nothing
)
insert into customer_log as held (customer_id, position) values ($1, $2)
on conflict (customer_id) do update set position = greatest(held.position, excluded.position), is_frozen = false
