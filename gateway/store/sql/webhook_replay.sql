-- $1 endpoint, $2 time. Every event since then that it wants, and no test of another one, is to be delivered again, marked; what still waits begins a new schedule. How many.
with again as (
    insert into webhook_delivery as d (position, endpoint_id, lane, replay)
    select e.position, w.endpoint_id, e.lane, true
    from webhook_endpoint w
    join event e on w.customer_id is null or e.customer_id = w.customer_id
    where w.endpoint_id = $1 and e.at >= $2 and (w.types = '{}' or e.type = any (w.types)) and (e.type <> 'webhook.test' or e.data ->> 'webhook' = $1)
    on conflict (position, endpoint_id) do update
        set state = 'pending', tried = 0, next_at = null, replay = d.replay or d.state <> 'pending'
    returning position
)
select count(*) from again
