-- $1 connection, $2 the meter after which to go on, $3 limit, $4 since when deliveries are looked for. Meters and the last reading of each.
select m.meter, m.device_id as device, m.metric, m.reduce, m.span, m.calendar, m.unit, d.window_start, d.value, d.delivered_at
from (
    select meter, device_id, metric, reduce, span, calendar, unit from meter_mapping
    where connection_id = $1 and meter > $2
    order by meter limit $3
) m
left join lateral (
    select window_start, value, delivered_at from delivery
    where connection_id = $1 and meter = m.meter and window_start >= $4
    order by window_start desc limit 1
) d on true
order by m.meter
