-- $1 customer or null, $2 the transfer to begin before, $3 limit. Lines of the ledger, the newest first.
select transfer_id, at, kind, from_account, to_account, amount, connection_id, customer_id
from credit_transfer
where transfer_id < $2 and ($1::text is null or customer_id = $1)
order by transfer_id desc
limit $3
