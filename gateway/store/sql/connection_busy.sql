-- $1 connection. Whether a stream is being worked on.
select exists (select from stream where connection_id = $1 and lease_until > now())
    or exists (select from inbound_stream where connection_id = $1 and lease_until > now())
