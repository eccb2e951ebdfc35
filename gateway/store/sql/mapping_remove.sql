-- $1 connection, $2 meters that stay. Their due windows go with the others.
with gone as (delete from meter_mapping where connection_id = $1 and meter <> all($2) returning meter)
delete from due_window where connection_id = $1 and meter in (select meter from gone)
