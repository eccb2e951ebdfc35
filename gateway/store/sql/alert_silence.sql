-- $1 connection, then one array a column: rules, devices, seconds until it is looked at again (null: when the device is heard).
update alert_judgement set due_at = now() + in_seconds(given.due)
from unnest($2::text[], $3::text[], $4::float8[]) as given (rule_id, device_id, due)
where alert_judgement.connection_id = $1 and (alert_judgement.rule_id, alert_judgement.device_id) = (given.rule_id, given.device_id)
