-- $1 time, $2 most events. How many were older and are gone, with their deliveries.
with gone as (
    delete from event where position = any (array(select position from event where at < $1 order by at limit $2)) returning position
)
select count(*) from gone
