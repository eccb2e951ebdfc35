-- $1 connection, $2 how many. Judgements whose silence is to be looked at, with how long it lasts in seconds: since they were heard, or somebody
-- has listened to devices without a break, or not all that the customer sent was taken, for that was over a quota. Null: nobody listens.
select alert_judgement.rule_id, alert_judgement.device_id, alert_judgement.heard_at, now() as now,
       case when listening.seen_at > now() - interval '30 seconds'
           then extract(epoch from now() - greatest(alert_judgement.heard_at, listening.since, refused.refused_until))::float8 end as silent_seconds
from alert_judgement
left join listening on true
cross join lateral (
    select max(coalesce(quota_excess.ended_at, now())) as refused_until
    from connection join quota_excess on quota_excess.customer_id = connection.customer_id and quota_excess.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')
    where connection.connection_id = alert_judgement.connection_id
) refused
where alert_judgement.connection_id = $1 and alert_judgement.due_at <= now()
order by alert_judgement.due_at
limit $2
