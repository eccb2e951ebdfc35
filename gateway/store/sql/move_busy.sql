-- $1 customer, $2 owner. What others still work on.
with mine as materialized (
    select connection_id from connection where customer_id = $1
)
select
    (select count(*) from stream where connection_id in (select connection_id from mine) and lease_owner is distinct from $2)
    + (select count(*) from alert_stream where connection_id in (select connection_id from mine) and lease_owner is distinct from $2)
    + (select count(*) from inbound_stream where customer_id = $1 and lease_owner is distinct from $2) as streams,
    (select count(*) from token where connection_id in (select connection_id from mine) and lease_owner is distinct from $2) as tokens,
    (select count(*) from logon where connection_id in (select connection_id from mine) and claimed_until > now()) as logons,
    (select count(*) from webhook_endpoint w join webhook_delivery d using (endpoint_id) where w.customer_id = $1 and d.state = 'pending' and d.lease_until > now()) as webhooks,
    (select count(*) from event where customer_id = $1 and published_at is null) as events
