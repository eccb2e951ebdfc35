-- $1 connection, then one array a column: rules, devices, times, states, seconds until silence is looked at (null: it is not).
insert into alert_judgement (connection_id, rule_id, device_id, judged_at, state, heard_at, due_at)
select $1, rule_id, device_id, judged_at, state::jsonb, now(), now() + in_seconds(due)
from unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::float8[]) as given (rule_id, device_id, judged_at, state, due)
order by rule_id, device_id
on conflict (connection_id, rule_id, device_id) do update
    set judged_at = excluded.judged_at, state = excluded.state, heard_at = excluded.heard_at,
        due_at = coalesce(alert_judgement.due_at, excluded.due_at)
