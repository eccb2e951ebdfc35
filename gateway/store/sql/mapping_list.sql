-- $1 connection.
select meter, device_id, metric, reduce, span, deadband, unit from meter_mapping where connection_id = $1
