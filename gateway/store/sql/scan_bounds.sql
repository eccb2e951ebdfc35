-- $1 customer, $2 watermark, $3 samples in a slice. Where the log ends, and the last position of the next slice: whole positions, one at least.
-- The days are read by their own names. The table that they belong to is named as well, so that it is locked before them, as by everybody else:
-- whoever locks it whole, or drops a day, would otherwise wait for us, and we for them.
select l.position as "end", telemetry_slice($1, $2, l.position, $3) as until
from customer_log l
where l.customer_id = $1 and not exists (select from telemetry where false)
