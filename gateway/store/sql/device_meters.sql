-- $1 customer, $2 device, $3 limit. The meters that its metrics feed, of all the customer's connections. `is_plain`: nothing is done to the values beside the reduction.
select meter_mapping.metric, meter_mapping.connection_id, meter_mapping.meter, meter_mapping.reduce, meter_mapping.unit, meter_mapping.span,
       meter_mapping.scale = 1 and meter_mapping.value_offset = 0 and meter_mapping.valid_low is null as is_plain
from connection join meter_mapping on meter_mapping.connection_id = connection.connection_id
where connection.customer_id = $1 and meter_mapping.device_id = $2
order by meter_mapping.metric, meter_mapping.connection_id, meter_mapping.meter
limit $3
