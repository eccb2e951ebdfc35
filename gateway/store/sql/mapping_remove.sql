-- $1 connection, $2 meters that stay. Their windows that are due or withheld go with the others.
with gone as (
    delete from meter_mapping where connection_id = $1 and meter <> all($2) returning meter
), withheld as (
    delete from withheld where connection_id = $1 and meter in (select meter from gone)
)
delete from due_window where connection_id = $1 and meter in (select meter from gone)
