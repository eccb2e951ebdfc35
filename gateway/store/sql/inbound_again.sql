-- $1 customer, $2 connection, $3 stream, or null for all, $4 days of history. History is read again from the system's present time, and every key is looked at.
with again as (
    update inbound_stream
    set state = 'idle', next_run_at = now(), origin = case when phase = 'initial' then null else origin end,
        high = case when phase = 'initial' then null else high end, open_done = false, initial_days = $4,
        walk_low = null, walk_high = null, walk_cursor = null, walk_pages = 0, walk_records = 0, walk_total = null, walk_at = null,
        read_records = 0, began_at = null, attempts = 0, fence = fence + 1, lease_owner = null, lease_until = null
    where customer_id = $1 and connection_id = $2 and stream = coalesce($3, stream) and phase <> 'incremental' and state <> 'off'
), told as (
    update connection set version = version + 1 where connection_id = $2
)
update inbound_stream set next_run_at = now(), attempts = 0
where customer_id = $1 and connection_id = $2 and stream = coalesce($3, stream) and phase = 'incremental' and state <> 'off'
