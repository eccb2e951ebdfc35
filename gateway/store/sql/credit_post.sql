-- $1 connection. After credit_lock. From held to posted; the account from before, and whether credits moved. No row: the connection has none.
with mine as (
    select customer_id, account, amount from connection_credit where connection_id = $1
), moved as (
    update credit_pool p
    set held = p.held - mine.amount, posted = p.posted + mine.amount
    from mine
    where p.pool_id = 1 and mine.account = 'held'
    returning p.capacity, mine.customer_id, mine.amount
), given as (
    update connection_credit c set account = 'posted', since = clock_timestamp() from moved where c.connection_id = $1
), written as (
    insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
    select 'post', 'held', 'posted', amount, $1, customer_id, capacity from moved
)
select account, exists (select from moved) as moved from mine
