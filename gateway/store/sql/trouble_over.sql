-- $1 connection, $2 parts.
with ended as (
    delete from connection_trouble where connection_id = $1 and part = any($2) returning connection_id
)
update connection set version = version + 1 where connection_id in (select connection_id from ended)
