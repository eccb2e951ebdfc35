-- $1 connection. The configuration whose meters are in force.
select meters_of from connection where connection_id = $1
