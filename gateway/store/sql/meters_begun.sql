-- $1 connection, $2 the configuration whose meters are in force from now on.
with streams as (update stream set meters_of = $2 where connection_id = $1)
update connection set meters_of = $2 where connection_id = $1
