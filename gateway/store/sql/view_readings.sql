-- $1 connection, $2 meter or null, $3 and $4 the meter and window after which to go on, $5 limit. In the order of the key.
select meter, window_start, value, remote_id, delivered_at
from delivery
where connection_id = $1 and ($2::text is null or meter = $2) and (meter, window_start) > ($3, $4)
order by meter, window_start
limit $5
