-- $1 states in which calls are made. Every operation of the connections that fail, with the database's time: found by those that fail, which are few.
with failing as materialized (
    select distinct connection_id from call_health where failing_since is not null
)
select h.*, now() as now
from failing join connection c using (connection_id) join call_health h using (connection_id)
where c.state = any($1)
order by h.connection_id, h.operation
