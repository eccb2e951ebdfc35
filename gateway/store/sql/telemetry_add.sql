-- insert into telemetry: a batch of samples as `telemetry_write` takes it, with the same results. Each sample is later than all that are stored of
-- its device, so PostgreSQL does not look for what may be there: a third of the statement. Where one is there all the same, the key refuses the whole batch.
-- $1 customers, $2 devices, $3 times, $4 metrics as JSON, $5 receipts; times in microseconds since the epoch. $6 the customers, each once, in the order of
-- their bytes; $7 which of them (from 1) each sample is of. $8 and $9: the days that the samples are of, by customer; $10 which of $6 that is.
-- $11 lease, $12 owner, $13 fence under which this is written, or null. $14 what of the batch was over quotas, as add_excess wants it, or null.
-- and telemetry_sample
written as (
    insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision)
    select customer_id, device_id, ts, metrics, received_at, revision from sample
), moved as (
    update customer_log set position = customer_log.position + 1
    from heads
    where customer_log.customer_id = heads.customer_id and (select known from log)
)
select $11::text is null or exists (select from term) as held, known,
       case when known then cardinality($1) else 0 end as stored, 0 as modified,
       case when known and ($11::text is null or exists (select from term)) then add_excess($14::jsonb) end as counted
from log
