-- $1 alert, $2 the state it is in, $3 the state it comes to, $4 remote id where one was given, $5 error, $6 seconds until the system is called (null: it is
-- not), $7 attempts, $8 whether its end is to be noted at the system. Null where it has moved meanwhile.
update alert
set state = $3, remote_id = coalesce($4, remote_id), error = $5, attempts = $7, due_at = now() + in_seconds($6), noting = $8, version = version + 1, changed_at = clock_timestamp(),
    raised_at = case when $3 = 'raised' then coalesce(raised_at, now()) else raised_at end,
    acknowledged_at = case when $3 = 'acknowledged' then now() else acknowledged_at end,
    closed_at = case when $3 = 'closed' then now() else closed_at end,
    failed_at = case when $3 = 'failed' then now() else failed_at end,
    cleared_at = case when $3 = 'cleared' then now() end
where alert_id = $1 and state = $2
returning *
