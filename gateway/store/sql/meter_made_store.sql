-- $1 connection, $2 meter, $3 state, $4 the system's title, $5 error, $6 seconds until it is asked for again (null: it is not).
-- What was made may be delivered to.
with outcome as (
    update meter_made
    set state = $3, remote_title = $4, error = $5, attempts = attempts + 1, due_at = now() + in_seconds($6),
        made_at = case when $3 = 'made' then now() end
    where connection_id = $1 and meter = $2
)
update meter_mapping set retry_at = null where connection_id = $1 and meter = $2 and $3 = 'made'
