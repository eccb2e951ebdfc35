-- $1 connection, $2 how many. Judgements whose silence is to be looked at, with how long it lasts in seconds: since they were heard, or somebody
-- has listened to devices without a break. Null: nobody listens.
select j.rule_id, j.device_id, j.heard_at, now() as now,
       case when l.seen_at > now() - interval '30 seconds' then extract(epoch from now() - greatest(j.heard_at, l.since))::float8 end as silent_seconds
from alert_judgement j
left join listening l on true
where j.connection_id = $1 and j.due_at <= now()
order by j.due_at
limit $2
