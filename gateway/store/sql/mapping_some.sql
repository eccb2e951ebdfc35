-- $1 connection, $2 meters. Those of these meters that are fed already.
select meter, device_id, metric, reduce, span, calendar, deadband, unit,
       max_silence, scale, value_offset, rollover, reset_below, threshold, valid_low, valid_high, hold, conversion
from meter_mapping where connection_id = $1 and meter = any($2::text[])
