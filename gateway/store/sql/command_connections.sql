-- command_connections
-- $1 customer, $2 one connection, or null for all that are not disconnected. Those of them that are the customer's.
select connection_id from connection
where customer_id = $1 and ($2::text is null and state <> 'disconnected' or connection_id = $2)
