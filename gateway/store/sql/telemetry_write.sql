-- $1 customers, $2 devices, $3 times, $4 metrics as JSON, $5 receipts; times in microseconds since the epoch.
-- An equal sample changes nothing. How many rows are new, and how many changed; the others were there already.
with written as (
    insert into telemetry as held (customer_id, device_id, ts, metrics, received_at)
    select customer_id, device_id, timestamptz 'epoch' + ts * interval '1 microsecond', metrics::jsonb,
           timestamptz 'epoch' + received * interval '1 microsecond'
    from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[]) as sample (customer_id, device_id, ts, metrics, received)
    on conflict (customer_id, device_id, ts) do update
        set metrics = held.metrics || excluded.metrics, received_at = excluded.received_at, revision = pg_current_xact_id(),
            changes = held.changes + 1
        where not held.metrics @> excluded.metrics
    returning changes = 0 as inserted
)
select count(*) filter (where inserted) as stored, count(*) filter (where not inserted) as modified from written
