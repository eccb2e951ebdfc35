-- $1 connection, $2 meters. Those of these meters that are fed already.
select meter, device_id, metric, reduce, span, deadband, unit from meter_mapping where connection_id = $1 and meter = any($2::text[])
