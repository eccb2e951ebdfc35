-- $1 connection. Whether a stream of it is being worked on, or its alerts.
select exists (select from stream where connection_id = $1 and lease_until > now())
    or exists (select from alert_stream where connection_id = $1 and lease_until > now())
    or exists (select from inbound_stream where connection_id = $1 and lease_until > now())
