-- $1 customer, $2 position, $3 position. What changed past the first up to the second: the one place where alerts read the log by its order. The
-- table is named so that it is locked before its days (scan_bounds.sql).
select device_id, ts, metrics from telemetry_between($1, $2, $3)
where not exists (select from telemetry where false)
order by device_id, ts
