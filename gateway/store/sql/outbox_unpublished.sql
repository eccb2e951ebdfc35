-- $1 lanes to leave out, $2 most lanes, $3 most events of a lane. Lanes are found by steps in the index, so a long lane costs no more than a short one.
with recursive lanes as (
    (select lane from event where published_at is null order by lane limit 1)
    union all
    select later.lane
    from lanes
    cross join lateral (select e.lane from event e where e.published_at is null and e.lane > lanes.lane order by e.lane limit 1) later
)
select e.position, e.event_id, e.type, e.customer_id, e.connection_id, e.lane, e.at, e.data, e.request_id
from (select lane from lanes where lane <> all ($1) limit $2) wanted
cross join lateral (select * from event where published_at is null and lane = wanted.lane order by position limit $3) e
order by e.lane, e.position
