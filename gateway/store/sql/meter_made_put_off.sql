-- $1 connection, $2 meter, $3 seconds until it is asked for. Null where it is not wanted any more.
update meter_made set due_at = now() + in_seconds($3) where connection_id = $1 and meter = $2 and state <> 'made' returning true
