-- $1 customer, $2 connection, $3 stream. A walk is due, for what a person was told is missing. Whether anything waits for his word.
with told as (
    update connection set version = version + 1 where connection_id = $2
), confirmed as (
    update inbound_stream set next_run_at = now(), attempts = 0
    where (customer_id, connection_id, stream) = ($1, $2, $3) and vanished > 0
    returning true
)
select exists (select from confirmed)
