-- $1 states in which calls are made. The health of every operation of every connection in one of them.
select h.* from call_health h join connection c using (connection_id) where c.state = any($1) order by h.connection_id, h.operation
