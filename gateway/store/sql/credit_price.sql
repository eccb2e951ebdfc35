-- $1 connection. Whose it is and what it costs, as frozen on it.
select customer_id, price from connection where connection_id = $1
