-- $1 customer, $2 connection, $3 states, $4 alert (each null: any), $5 and $6 time and alert before which to go on, $7 limit. The newest first.
select * from alert
where ($1::text is null or customer_id = $1) and ($2::text is null or connection_id = $2) and ($3::text[] is null or state = any($3))
  and ($4::text is null or alert_id = $4) and (created_at, alert_id) < ($5, $6)
order by created_at desc, alert_id desc
limit $7
