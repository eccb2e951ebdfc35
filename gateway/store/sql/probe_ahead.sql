-- $1 connection. Whether its next look lies ahead: one that was asked for is due until a gateway takes it up.
select probe_at > now() from connection where connection_id = $1
