-- $1 limit. Customers that are known by their devices or their connections.
select customer_id from (select customer_id from customer union select customer_id from connection) known
order by customer_id
limit $1
