-- $1 connections, $2 customer. Those that are the customer's.
select connection_id from connection where connection_id = any($1) and customer_id = $2
