-- $1 connection, $2 the meter after which to go on, $3 limit, $4 since when deliveries are looked for. Meters and the last reading of each.
select mapping.meter, mapping.device_id as device, mapping.metric, mapping.reduce, mapping.span, mapping.calendar, mapping.unit, latest.window_start, latest.value, latest.delivered_at
from (
    select meter, device_id, metric, reduce, span, calendar, unit from meter_mapping
    where connection_id = $1 and meter > $2
    order by meter limit $3
) mapping
left join lateral (
    select window_start, value, delivered_at from delivery
    where connection_id = $1 and meter = mapping.meter and window_start >= $4
    order by window_start desc limit 1
) latest on true
order by mapping.meter
