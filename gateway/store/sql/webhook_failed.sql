-- $1 position, $2 endpoint, $3 attempt, $4 now, $5 next attempt, null: given up, $6 error. Since when the endpoint fails; no row when a later attempt was begun.
-- An endpoint that was not tried for two days begins anew: nobody knows how it was meanwhile.
with done as (
    update webhook_delivery
    set state = case when $5::timestamptz is null then 'given_up' else 'pending' end, next_at = $5, lease_until = null, error = $6
    where position = $1 and endpoint_id = $2 and attempt = $3 and state = 'pending'
    returning endpoint_id
)
update webhook_endpoint w
set failing_since = case when w.failing_since is null or w.failed_at < $4::timestamptz - interval '2 days' then $4 else w.failing_since end,
    failed_at = $4,
    last_error = $6
from done
where w.endpoint_id = done.endpoint_id
returning w.failing_since
