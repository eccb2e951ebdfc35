-- $1 connections, $2 kind: return, or lapse (of held credits: the ledger refuses another). After credit_lock. Back to the pool; which had how much.
with gone as (
    delete from connection_credit
    where connection_id = any($1::text[])
    returning connection_id, customer_id, account, amount
), sums as (
    select coalesce(sum(amount) filter (where account = 'held'), 0)::int as held, coalesce(sum(amount) filter (where account = 'posted'), 0)::int as posted
    from gone
), moved as (
    update credit_pool p set held = p.held - sums.held, posted = p.posted - sums.posted from sums where p.pool_id = 1 returning p.capacity
), written as (
    insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
    select $2, account, 'available', amount, connection_id, customer_id, coalesce((select capacity from moved), 0) from gone
)
select connection_id, amount from gone
