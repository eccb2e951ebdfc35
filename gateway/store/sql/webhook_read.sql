-- $1 endpoint, null for all, $2 customer, null for every one and the gateway's own.
select w.endpoint_id, w.customer_id, w.url, w.types, w.created_at, w.generation, w.previous_until, w.failing_since, w.last_error, w.last_success_at,
       w.disabled_at, w.disabled_reason, w.secret, w.previous_secret,
       (select count(*) from webhook_delivery d where d.endpoint_id = w.endpoint_id and d.state = 'pending') as pending
from webhook_endpoint w
where ($1::text is null or w.endpoint_id = $1) and ($2::text is null or w.customer_id = $2)
order by w.endpoint_id
