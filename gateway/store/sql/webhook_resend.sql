-- $1 endpoint, $2 event id. The event is to be delivered to it again, marked, also where it never wanted the type. Whether there is one for its customer, which a test of another endpoint is not.
with again as (
    insert into webhook_delivery as d (position, endpoint_id, lane, replay)
    select e.position, w.endpoint_id, e.lane, true
    from webhook_endpoint w
    join event e on e.event_id = $2 and (w.customer_id is null or e.customer_id = w.customer_id)
    where w.endpoint_id = $1 and (e.type <> 'webhook.test' or e.data ->> 'webhook' = $1)
    on conflict (position, endpoint_id) do update
        set state = 'pending', tried = 0, next_at = null, replay = d.replay or d.state <> 'pending'
    returning position
)
select count(*) > 0 from again
