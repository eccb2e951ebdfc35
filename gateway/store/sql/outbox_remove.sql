-- $1 time, $2 most events. How many were older and are gone, with their deliveries. Taken in the order of their positions.
with old as materialized (
    select ctid from event where position = any (array(select position from event where at < $1 order by at limit $2)) order by position for update
), gone as (
    delete from event e using old where e.ctid = old.ctid returning 1
)
select count(*) from gone
