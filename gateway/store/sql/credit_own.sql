-- $1 customer. Its credits, by account.
select account, sum(amount)::int as amount from connection_credit where customer_id = $1 group by account
