-- $1 customer, $2 from revision, $3 until revision. What changed in this part of the log: the one place where alerts read it by its order.
select device_id, ts, metrics from telemetry
where customer_id = $1 and revision >= $2::text::xid8 and revision < $3::text::xid8
order by device_id, ts
