-- $1 customer, $2 connection, $3 stream, $4 the system's clock. It was believed to be later when history began: that is read again, up to now.
update inbound_stream
set origin = $4, high = case when phase = 'initial' then null else high end, open_done = false,
    state = case when phase = 'initial' and state <> 'off' then 'idle' else state end, next_run_at = case when phase = 'initial' then now() else next_run_at end,
    walk_low = null, walk_high = null, walk_cursor = null, walk_at = null, walk_pages = 0,
    fence = case when phase = 'initial' then fence + 1 else fence end, lease_owner = case when phase <> 'initial' then lease_owner end,
    lease_until = case when phase <> 'initial' then lease_until end
where (customer_id, connection_id, stream) = ($1, $2, $3) and phase <> 'reconcile' and origin > $4
