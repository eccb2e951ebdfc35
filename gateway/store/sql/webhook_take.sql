-- $1 positions and $2 endpoints, one array a column, $3 now, $4 seconds of the lease. Counts the attempt before it is made; what another has is left to it.
with taken as (
    select d.position, d.endpoint_id
    from unnest($1::bigint[], $2::text[]) as wanted (position, endpoint_id)
    join webhook_delivery d using (position, endpoint_id)
    where d.state = 'pending' and (d.next_at is null or d.next_at <= $3) and (d.lease_until is null or d.lease_until <= now())
    for update of d skip locked
)
update webhook_delivery d
set attempt = d.attempt + 1, tried = d.tried + 1, lease_until = now() + in_seconds($4)
from taken
join webhook_endpoint w using (endpoint_id)
join event e using (position)
where d.position = taken.position and d.endpoint_id = taken.endpoint_id and w.disabled_at is null
returning d.endpoint_id, d.attempt, d.tried, d.replay, w.url, w.secret, w.generation, w.previous_secret, w.previous_until,
          e.position, e.event_id, e.type, e.customer_id, e.connection_id, e.lane, e.at, e.data, e.request_id
