-- $1 endpoint. An event for this endpoint alone, whatever types it wants, in a lane of its own: it waits for no other. MQTT is not told. Its id.
with added as (
    insert into event (type, customer_id, lane, data, published_at)
    select 'webhook.test', customer_id, '/test/' || endpoint_id, jsonb_build_object('webhook', endpoint_id), now() from webhook_endpoint where endpoint_id = $1
    returning position, event_id, lane
), wanted as (
    insert into webhook_delivery (position, endpoint_id, lane) select position, $1, lane from added
)
select event_id from added
