-- $1 states in which calls are made. Every operation of the connections that fail, with the database's time.
select h.*, now() as now
from call_health h join connection c using (connection_id)
where c.state = any($1) and exists (select from call_health f where f.connection_id = h.connection_id and f.failing_since is not null)
order by h.connection_id, h.operation
