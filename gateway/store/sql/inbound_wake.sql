-- $1 connection, $2 stream, or null for all. They run again at once, with no failures counted.
update inbound_stream set next_run_at = now(), attempts = 0, put_off = 0
where connection_id = $1 and stream = coalesce($2, stream) and phase <> 'reconcile' and state not in ('done', 'off')
