-- $1 limit. How many silent devices customers have, those with the most first.
select customer_id, count(*) as devices from device_state where silent_since is not null group by customer_id order by devices desc, customer_id limit $1
