-- $1 the transfer to begin before, $2 how many. Newest first.
select transfer_id, at, kind, from_account, to_account, amount, connection_id, customer_id
from credit_transfer
where transfer_id < $1
order by transfer_id desc
limit $2
