-- $1 connection, $2 meters that stay. Their windows that are due or withheld go with the others, taken in the order of every other
-- transaction. What is in doubt stays so: a meter that comes back finds it.
-- An anti-join: compared with each of an array, n meters that stay would cost n comparisons for each mapping.
with gone as (
    delete from meter_mapping m
    where m.connection_id = $1 and not exists (select from unnest($2::text[]) as kept (meter) where kept.meter = m.meter)
    returning m.meter
), withheld as (
    delete from withheld where connection_id = $1 and meter in (select meter from gone)
),
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
