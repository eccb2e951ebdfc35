-- $1 connection. Its last document was published and removed.
update published_status set ended_at = now() where connection_id = $1
