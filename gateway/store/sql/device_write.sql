-- $1 customers, $2 devices, $3 titles, $4 sources (null: neither is known), $5 last receipts, $6 last samples' times, $7 first samples' times, $8 metrics as
-- JSON: [time, value] by name. Times in microseconds since the epoch. No device twice. A device that was never registered is left out.
-- $9 how many metrics of each may be known; returns the devices of which some were forgotten for that. A name and its value take at least 27 bytes as text.
-- Values that are all later than what is held replace it; where one is not, or the row has grown large, each is compared.
with given as materialized (
    select g.customer_id, g.device_id, g.title, g.source, d.place,
           g.source is not null and (d.title, d.source) is distinct from (g.title, g.source) as is_named, timestamptz 'epoch' + g.seen * interval '1 microsecond' as seen_at,
           timestamptz 'epoch' + g.last * interval '1 microsecond' as sample_at,
           case when s.metrics is null then g.metrics::jsonb
                when timestamptz 'epoch' + g.first * interval '1 microsecond' >= s.last_sample_at
                     and (pg_column_size(s.metrics) < 1900 and octet_length(g.metrics) < 27 * (g.most - 70)
                          or octet_length(s.metrics::text) + octet_length(g.metrics) < 27 * g.most)
                then s.metrics || g.metrics::jsonb
                else merge_device_metrics(s.metrics, g.metrics::jsonb, g.most) end as metrics,
           case when pg_column_size(s.metrics) < 1900 and octet_length(g.metrics) < 27 * (g.most - 70) then false
                when octet_length(s.metrics::text) + octet_length(g.metrics) < 27 * g.most then false
                else (select count(*) from jsonb_object_keys(s.metrics || g.metrics::jsonb)) > g.most end as is_cut
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::int[])
         as g (customer_id, device_id, title, source, seen, last, first, metrics, most)
    -- by key, one by one: whatever the planner thinks of, a join of all the customer's devices is not read
    cross join lateral (select d.title, d.source, d.ctid as place from device d where d.customer_id = g.customer_id and d.device_id = g.device_id limit 1) d
    left join lateral (select * from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id limit 1) s on true
    order by g.customer_id, g.device_id
), named as (
    update device d set title = g.title, source = g.source
    from given g
    where d.ctid = any (array(select place from given where is_named)) and d.ctid = g.place
), stored as (
    insert into device_state as held (customer_id, device_id, last_seen_at, last_sample_at, metrics)
    select customer_id, device_id, seen_at, sample_at, metrics from given order by customer_id, device_id
    on conflict (customer_id, device_id) do update
        set last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
            last_sample_at = greatest(held.last_sample_at, excluded.last_sample_at), metrics = excluded.metrics
)
select customer_id, device_id from given where is_cut
