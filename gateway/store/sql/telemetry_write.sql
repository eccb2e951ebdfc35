-- $1 customers, $2 devices, $3 times, $4 metrics as JSON, $5 receipts; times in microseconds since the epoch, rows in the order of their key:
-- writers that meet wait for each other, and never in a circle. $6 lease, $7 owner, $8 fence under which this is written, or null.
-- An equal sample changes nothing. How many rows are new, and how many changed; the others were there already. `held`: whether the lease
-- was theirs; where not, nothing was written. It is proved here and not by a statement before: that would be a round trip for each commit.
with term as materialized (
    select true from lease where (name, owner, fence) = ($6::text, $7::text, $8::bigint) for key share
), written as (
    insert into telemetry as held (customer_id, device_id, ts, metrics, received_at)
    select customer_id, device_id, timestamptz 'epoch' + ts * interval '1 microsecond', metrics::jsonb,
           timestamptz 'epoch' + received * interval '1 microsecond'
    from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[]) as sample (customer_id, device_id, ts, metrics, received)
    where $6::text is null or exists (select from term)
    on conflict (customer_id, device_id, ts) do update
        set metrics = held.metrics || excluded.metrics, received_at = excluded.received_at, revision = pg_current_xact_id(),
            changes = held.changes + 1
        where not held.metrics @> excluded.metrics
    returning changes = 0 as inserted
)
select $6::text is null or exists (select from term) as held,
       count(*) filter (where inserted) as stored, count(*) filter (where not inserted) as modified
from written
