-- $1 customer, $2 device, $3 from, $4 until, both inclusive, $5 how many. A device's samples by its own time.
select ts, metrics from telemetry
where customer_id = $1 and device_id = $2 and ts >= $3 and ts <= $4
order by ts
limit $5
