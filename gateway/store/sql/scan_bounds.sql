-- $1 customer, $2 watermark, $3 samples in a slice. Where the log ends, and the last position of the next slice: whole positions, one at least.
select l.position as "end", telemetry_slice($1, $2, l.position, $3) as until
from customer_log l where l.customer_id = $1
