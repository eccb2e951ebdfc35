-- $1 states in which calls are made. The health of the connections that fail, with the database's time.
select h.*, now() as now from call_health h join connection c using (connection_id) where h.failing_since is not null and c.state = any($1)
