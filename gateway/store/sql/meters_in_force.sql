-- $1 connection. The configuration whose meters are in force, and what they were made of.
select meters_of, meters_digest from connection where connection_id = $1
