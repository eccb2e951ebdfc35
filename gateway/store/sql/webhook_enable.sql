-- $1 endpoint. What waits for it begins a new schedule.
with enabled as (
    update webhook_endpoint set disabled_at = null, disabled_reason = null, failing_since = null, failed_at = null
    where endpoint_id = $1
    returning endpoint_id
), renewed as (
    update webhook_delivery d set tried = 0, next_at = null from enabled where d.endpoint_id = enabled.endpoint_id and d.state = 'pending'
)
select count(*) from enabled
