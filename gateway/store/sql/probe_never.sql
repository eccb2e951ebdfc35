-- $1 connection. It is looked at when somebody asks for it, not before.
update connection set probe_at = 'infinity' where connection_id = $1
