-- $1 customer, $2 device, $3 a time, $4 metric or null. The device's newest sample before it.
select ts from telemetry
where customer_id = $1 and device_id = $2 and ts < $3 and ($4::text is null or metrics ? $4)
order by ts desc
limit 1
