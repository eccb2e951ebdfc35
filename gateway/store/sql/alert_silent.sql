-- $1 connection, $2 how many. Judgements whose silence is to be looked at, with how long it lasts in seconds: since they were heard, or somebody
-- has listened to devices without a break, or not all that the customer sent was taken, for that was over a quota. Null: nobody listens.
select j.rule_id, j.device_id, j.heard_at, now() as now,
       case when l.seen_at > now() - interval '30 seconds' then extract(epoch from now() - greatest(j.heard_at, l.since, q.refused_until))::float8 end as silent_seconds
from alert_judgement j
left join listening l on true
cross join lateral (
    select max(coalesce(q.ended_at, now())) as refused_until
    from connection c join quota_excess q on q.customer_id = c.customer_id and q.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')
    where c.connection_id = j.connection_id
) q
where j.connection_id = $1 and j.due_at <= now()
order by j.due_at
limit $2
