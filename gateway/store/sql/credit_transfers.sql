-- $1 the transfer to begin before (null: the end), $2 how many. Newest first.
select transfer_id, at, kind, from_account, to_account, amount, connection_id, customer_id
from credit_transfer
where $1::bigint is null or transfer_id < $1
order by transfer_id desc
limit $2
