-- $1 connection ids.
select connection_id, state from connection where connection_id = any($1)
