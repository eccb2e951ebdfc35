-- $1 customer, $2 owner; null: whoever moved it. Undoes move_hold.
with mine as materialized (
    select connection_id from connection where customer_id = $1
), streams as (
    update stream set lease_owner = null, lease_until = null
    where connection_id in (select connection_id from mine) and (lease_owner = $2 or $2 is null and starts_with(lease_owner, 'mover/'))
), alerts as (
    update alert_stream set lease_owner = null, lease_until = null
    where connection_id in (select connection_id from mine) and (lease_owner = $2 or $2 is null and starts_with(lease_owner, 'mover/'))
), inbound as (
    update inbound_stream set lease_owner = null, lease_until = null
    where customer_id = $1 and (lease_owner = $2 or $2 is null and starts_with(lease_owner, 'mover/'))
), tokens as (
    update token set lease_owner = null, lease_until = null
    where connection_id in (select connection_id from mine) and (lease_owner = $2 or $2 is null and starts_with(lease_owner, 'mover/'))
)
update webhook_endpoint set disabled_at = null, disabled_reason = null where customer_id = $1 and disabled_reason = 'moving'
