-- $1 connection.
delete from published_status where connection_id = $1
