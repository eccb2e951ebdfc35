-- $1 how long credits are held (interval). Every connection that exists, has credits, or has ever had some: its state, its credits, the sums of its transfers.
with moved as (
    select connection_id, max(customer_id) as customer_id,
           sum(case 'held' when to_account then amount when from_account then -amount else 0 end)::int as held,
           sum(case 'posted' when to_account then amount when from_account then -amount else 0 end)::int as posted
    from credit_transfer
    group by connection_id
)
select connection_id, coalesce(h.customer_id, c.customer_id, m.customer_id) as customer_id, c.tier, c.state, c.prior_state,
       coalesce(c.state = 'pending' and c.since >= now() - $1::interval, false) as is_waiting, coalesce(c.price, 0) as price,
       h.account, coalesce(h.amount, 0) as amount, h.since, coalesce(m.held, 0) as ledger_held, coalesce(m.posted, 0) as ledger_posted
from connection c
full join connection_credit h using (connection_id)
full join moved m using (connection_id)
order by connection_id
