-- Who works something off is told that there is something, and asks seldom. Notifications of one transaction are serialised at its commit: these belong to
-- changes of connections, alerts, events and records, never to telemetry. Equal ones of a transaction are one.

create function told() returns trigger language plpgsql as $$
begin
    perform pg_notify(tg_argv[0], '');
    return null;
end $$;

-- MQTT and webhooks. What only goes on (an attempt is begun, or put off) is nothing new.
create trigger event_told after insert on event for each statement execute function told('fieldgate_event');
create trigger delivery_told after insert on webhook_delivery for each statement execute function told('fieldgate_event');
create trigger delivery_again_told after update on webhook_delivery for each row
    when (new.state = 'pending' and new.next_at is null and (old.state <> 'pending' or old.next_at is not null))
    execute function told('fieldgate_event');
create trigger endpoint_enabled_told after update on webhook_endpoint for each row
    when (old.disabled_at is not null and new.disabled_at is null)
    execute function told('fieldgate_event');

-- Pages of records are applied many a second: only the first one is told after which not all is published any more. Whoever publishes goes on by itself.
create function records_told() returns trigger language plpgsql as $$
begin
    if coalesce((select p.position from record_publication p where p.customer_id = new.customer_id), 0) >= old.position then
        perform pg_notify('fieldgate_record', '');
    end if;
    return null;
end $$;
create trigger record_log_told after update of position on record_log for each row
    when (new.position <> old.position) execute function records_told();

-- Retained documents: of connections (what is queued already was told), of alerts, and of devices as they fall silent and return.
create trigger retained_change_told after insert on retained_change for each row execute function told('fieldgate_retained');
create trigger alert_made_told after insert on alert for each row execute function told('fieldgate_retained');
create trigger alert_changed_told after update of version on alert for each row
    when (new.version <> old.version) execute function told('fieldgate_retained');
create trigger device_state_told after update of version on device_state for each row
    when (new.version <> old.version) execute function told('fieldgate_retained');

-- When a breaker is tried next concerns nobody who knows that it is open: they look often.
create trigger breaker_told after insert or delete on breaker for each row execute function told('fieldgate_breaker');
create trigger breaker_narrowed_told after update of operation on breaker for each row
    when (new.operation is distinct from old.operation) execute function told('fieldgate_breaker');

-- A connection is to be looked at now, sooner than was planned.
create trigger connection_due_told after update of probe_at on connection for each row
    when (old.probe_at > now() and new.probe_at <= now()) execute function told('fieldgate_due');
