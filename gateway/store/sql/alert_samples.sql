-- $1 customer, $2 position, $3 position. What changed past the first up to the second: the one place where alerts read the log by its order.
select device_id, ts, metrics from telemetry_between($1, $2, $3) order by device_id, ts
