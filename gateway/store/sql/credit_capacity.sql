-- $1 capacity, $2 quotas (customer to credits). After credit_lock. The row from before.
with before as (
    select capacity, held, posted, quotas from credit_pool where pool_id = 1
), stored as (
    insert into credit_pool (capacity, quotas) values ($1::int, $2::jsonb)
    on conflict (pool_id) do update set capacity = excluded.capacity, quotas = excluded.quotas
)
select coalesce(capacity, 0) as capacity, coalesce(held, 0) as held, coalesce(posted, 0) as posted from (select) one left join before on true
