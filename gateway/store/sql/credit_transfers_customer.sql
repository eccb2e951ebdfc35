-- $1 the transfer to begin before, $2 how many, $3 customer. As credit_transfers, of this one. It is bounded by a row, and not by equality, so that only its own
-- index has the order.
select transfer_id, at, kind, from_account, to_account, amount, connection_id, customer_id
from credit_transfer
where customer_id >= $3 and (customer_id, transfer_id) < ($3, $1)
order by customer_id desc, transfer_id desc
limit $2
