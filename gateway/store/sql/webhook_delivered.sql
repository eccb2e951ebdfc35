-- $1 position, $2 endpoint, $3 attempt, $4 now. Nothing when a later attempt was begun. The endpoint is touched once a minute, or when it had failed.
with done as (
    update webhook_delivery set state = 'delivered', delivered_at = $4, next_at = null, lease_until = null, error = null
    where position = $1 and endpoint_id = $2 and attempt = $3 and state = 'pending'
    returning endpoint_id
)
update webhook_endpoint w set last_success_at = $4, failing_since = null, failed_at = null, last_error = null
from done
where w.endpoint_id = done.endpoint_id
  and (w.failing_since is not null or w.last_success_at is null or w.last_success_at < $4::timestamptz - interval '1 minute')
