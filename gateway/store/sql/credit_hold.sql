-- $1 connection, $2 customer, $3 amount, $4 capacity and $5 quota of the caller's configuration (null: the stored ones alone; of two the stricter counts).
-- After credit_lock. Takes the credits unless the connection has some (known) or capacity or quota forbid it; the other columns are from before.
with known as (
    select from connection_credit where connection_id = $1
), customer as (
    select coalesce(sum(amount), 0)::int as used from connection_credit where customer_id = $2
), decided as (
    update credit_pool
    set held = held + $3::int
    where pool_id = 1 and not exists (select from known) and $3::int >= 0
        and held + posted + $3::int <= least(capacity, $4::int)
        and (select used from customer) + $3::int <= coalesce(least((quotas ->> $2::text)::int, $5::int), 2147483647)
    returning capacity
), given as (
    insert into connection_credit (connection_id, customer_id, account, amount)
    select $1, $2, 'held', $3 from decided
), written as (
    insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
    select 'hold', 'available', 'held', $3, $1, $2, capacity from decided
)
select exists (select from known) as known, exists (select from decided) as taken, customer.used as customer_used,
       least((p.quotas ->> $2::text)::int, $5::int) as quota, coalesce(least(p.capacity, $4::int), 0) as capacity, coalesce(p.held, 0) as held, coalesce(p.posted, 0) as posted
from customer left join credit_pool p on p.pool_id = 1
