-- $1 states, $2 alert (each null: any), $3 and $4 time and alert before which to go on, $5 limit, $6 connection, $7 its customer, null for whose ever it is. As alert_list, of
-- this one. It is bounded by a row, and not by equality, so that only its own index has the order.
select * from alert
where connection_id >= $6 and (connection_id, created_at, alert_id) < ($6, $3, $4)
  and ($1::text[] is null or state = any($1)) and ($2::text is null or alert_id = $2) and ($7::text is null or customer_id = $7)
order by connection_id desc, created_at desc, alert_id desc
limit $5
