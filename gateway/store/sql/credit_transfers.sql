-- $1 customer (null: all), $2 the transfer to begin before (null: the end), $3 how many. Newest first.
select transfer_id, at, kind, from_account, to_account, amount, connection_id, customer_id
from credit_transfer
where ($2::bigint is null or transfer_id < $2) and ($1::text is null or customer_id = $1)
order by transfer_id desc
limit $3
