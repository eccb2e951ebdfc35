-- $1 positions. Taken in their order, as readers take them to give them their place.
with places as materialized (
    select e.position from event e where e.position = any ($1) and e.published_at is null order by e.position for no key update
)
update event e set published_at = now() from places where e.position = places.position
