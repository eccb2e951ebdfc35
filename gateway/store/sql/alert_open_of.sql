-- $1 connection, $2 devices. Their alerts that are open.
select alert_id, rule_id, device_id, since, opened_at, well_at, value from alert where connection_id = $1 and device_id = any($2) and well_at is null
