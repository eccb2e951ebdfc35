-- No parameters. The first hold that did not fit the capacity of its moment: what was used after it, from the transfers alone.
select transfer_id, used, capacity
from (
    select transfer_id, kind, capacity,
           sum(case 'available' when from_account then amount when to_account then -amount else 0 end) over (order by transfer_id)::int as used
    from credit_transfer
) ledger
where kind = 'hold' and used > capacity
order by transfer_id
limit 1
