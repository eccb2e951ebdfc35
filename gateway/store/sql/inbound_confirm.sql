-- $1 customer, $2 connection, $3 stream. What vanished is taken for deleted by the next walk. How many that is; null where nothing waits for it.
with told as (
    update connection set version = version + 1 where connection_id = $2
), confirmed as (
    update inbound_stream set may_vanish = true, next_run_at = now(), attempts = 0
    where (customer_id, connection_id, stream) = ($1, $2, $3) and vanished > 0
    returning vanished
)
select max(vanished) from confirmed
