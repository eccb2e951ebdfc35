-- $1 customer, $2 device, $3 a time, $4 metric, $5 true where only numbers count (null: any value does). The device's newest sample before the time that says
-- something to a rule: one that compares numbers hears no text.
select ts from telemetry
where customer_id = $1 and device_id = $2 and ts < $3 and metrics ? $4
  and ($5::boolean is null or case jsonb_typeof(metrics -> $4) when 'number' then abs((metrics -> $4)::numeric) < 1e150 else false end = $5)
order by ts desc
limit 1
