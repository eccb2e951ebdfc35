-- $1 connection, $2 devices. What the rules have made of them.
select rule_id, device_id, judged_at, state, due_at from alert_judgement where connection_id = $1 and device_id = any($2)
