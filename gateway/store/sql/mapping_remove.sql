-- $1 connection, $2 meters that stay. Their due windows go with the others, taken in the order of every other transaction. What is in doubt
-- stays so: a meter that comes back finds it.
with gone as (delete from meter_mapping where connection_id = $1 and meter <> all($2) returning meter),
places as materialized (
    select held.place
    from (select meter from gone order by meter) meters
    cross join lateral (
        select d.ctid as place from due_window d
        where d.connection_id = $1 and d.meter = meters.meter
        order by d.window_start
        for update
    ) held
)
delete from due_window d using places where d.ctid = places.place
