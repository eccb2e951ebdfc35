-- $1 connection, $2 rules, $3 devices, $4 the state of what was never judged, $5 seconds until silence is looked at, $6 its time.
insert into alert_judgement (connection_id, rule_id, device_id, judged_at, state, heard_at, due_at)
select $1, rule_id, device_id, $6, $4, now(), now() + in_seconds(due)
from unnest($2::text[], $3::text[], $5::float8[]) as given (rule_id, device_id, due)
on conflict do nothing
