-- $1 connection, $2 name, $3 phase.
select batch_id, readings, extract(epoch from now() - sent_at)::float8 as age_seconds
from push_intent where (connection_id, name, phase) = ($1, $2, $3)
