-- insert into telemetry: a batch of samples at the next position of their customers' logs. Named here, for pg_stat_activity shows the first kilobyte only.
-- $1 customers, $2 devices, $3 times, $4 metrics as JSON, $5 receipts; times in microseconds since the epoch. $6 the customers, each once, in the order of
-- their bytes; $7 which of them (from 1) each sample is of. $8 and $9: the days that the samples are of, by customer; $10 which of $6 that is.
-- $11 lease, $12 owner, $13 fence under which this is written, or null. $14 what of the batch was over quotas, as add_excess wants it, or null.
-- An equal sample changes nothing. How many rows are new, and how many changed; the others were there already. `held`: whether the lease
-- was theirs; where not, nothing was written. It is proved here and not by a statement before: that would be a round trip for each commit.
-- Customers' logs are locked first, in one order, until the commit: writers that meet wait for each other, and never in a circle, and what one
-- writes is at one position of each log, with everything before it committed. A log moves only when something changes.
-- `known`: every customer has a log, and has not left; where not, nothing was written.
-- and telemetry_sample
written as (
    insert into telemetry as held (customer_id, device_id, ts, metrics, received_at, revision)
    select customer_id, device_id, ts, metrics, received_at, revision from sample
    on conflict (customer_id, device_id, ts) do update
        set metrics = held.metrics || excluded.metrics, received_at = excluded.received_at, revision = excluded.revision,
            changes = held.changes + 1
        where not held.metrics @> excluded.metrics
    returning customer_id, changes = 0 as inserted
), moved as (
    update customer_log set position = customer_log.position + 1
    from (select distinct customer_id from written) theirs
    where customer_log.customer_id = theirs.customer_id
)
select $11::text is null or exists (select from term) as held, (select known from log) as known,
       count(*) filter (where inserted) as stored, count(*) filter (where not inserted) as modified,
       case when (select known from log) and ($11::text is null or exists (select from term)) then add_excess($14::jsonb) end as counted
from written
