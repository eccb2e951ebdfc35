-- $1 states, $2 alert (each null: any), $3 and $4 time and alert before which to go on, $5 limit. The newest first.
select * from alert
where ($1::text[] is null or state = any($1)) and ($2::text is null or alert_id = $2) and (created_at, alert_id) < ($3, $4)
order by created_at desc, alert_id desc
limit $5
