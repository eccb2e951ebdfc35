-- $1 customer, $2 device, $3 limit. The meters that its metrics feed, of all the customer's connections. `is_plain`: nothing is done to the values beside the reduction.
select m.metric, m.connection_id, m.meter, m.reduce, m.unit, m.span, m.scale = 1 and m.value_offset = 0 and m.valid_low is null as is_plain
from connection c join meter_mapping m on m.connection_id = c.connection_id
where c.customer_id = $1 and m.device_id = $2
order by m.metric, m.connection_id, m.meter
limit $3
