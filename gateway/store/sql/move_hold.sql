-- $1 customer, $2 owner, $3 seconds. What nobody works on is leased by the mover, and no webhook of the customer's is called from now on.
with mine as materialized (
    select connection_id from connection where customer_id = $1
), streams as (
    update stream s set lease_owner = $2, lease_until = now() + in_seconds($3), fence = s.fence + 1
    where s.connection_id in (select connection_id from mine) and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $2)
), alerts as (
    update alert_stream s set lease_owner = $2, lease_until = now() + in_seconds($3), fence = s.fence + 1
    where s.connection_id in (select connection_id from mine) and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $2)
), inbound as (
    update inbound_stream s set lease_owner = $2, lease_until = now() + in_seconds($3), fence = s.fence + 1
    where s.customer_id = $1 and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $2)
), tokens as (
    update token t set lease_owner = $2, lease_until = now() + in_seconds($3), fence = t.fence + 1
    where t.connection_id in (select connection_id from mine) and (t.lease_until is null or t.lease_until <= now() or t.lease_owner = $2)
)
update webhook_endpoint set disabled_at = now(), disabled_reason = 'moving' where customer_id = $1 and disabled_at is null
