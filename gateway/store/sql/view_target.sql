-- $1 connection. What must be known before anything is done with it.
select connection_id, customer_id, system, state, version from connection where connection_id = $1
