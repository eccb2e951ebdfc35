-- $1 customer, $2 from, $3 until, $4 connection, $5 and $6 rules: devices and metrics, as patterns of LIKE; $7 how many metrics of one device patterns may take,
-- $8 an expression that fits whatever $6 fit.
-- As metrics_fresh, of the samples in [from, until): by the key, device by device.
with compared as materialized (
    select d.device_id, array(select m.metric from matched_metric m where m.connection_id = $4 and m.device_id = d.device_id) as names
    from device d
    where d.customer_id = $1 and exists (select from unnest($5::text[]) as rule (device) where d.device_id like rule.device)
), known as materialized (
    select c.device_id, name from compared c cross join lateral unnest(c.names) as name where cardinality(c.names) > 50 or cardinality(c.names) >= $7
), named as materialized (
    select c.device_id, n.metric
    from compared c
    cross join lateral (
        select distinct keys.metric
        from (
            select s.metrics - c.names as metrics from telemetry s
            where s.customer_id = $1 and s.device_id = c.device_id and s.ts >= $2 and s.ts < $3
            offset 0
        ) rest
        cross join lateral jsonb_object_keys(rest.metrics) as keys (metric)
        where rest.metrics <> '{}' and keys.metric ~ $8
    ) n
    where cardinality(c.names) <= 50 and cardinality(c.names) < $7
    union all
    select distinct c.device_id, n.metric
    from compared c
    cross join lateral (
        select rest.metric
        from (
            select keys.metric
            from telemetry s
            cross join lateral jsonb_object_keys(s.metrics) as keys (metric)
            where s.customer_id = $1 and s.device_id = c.device_id and s.ts >= $2 and s.ts < $3
              and (s.device_id, keys.metric) not in (select known.device_id, known.name from known)
            offset 0
        ) rest
        where rest.metric ~ $8
          and exists (select from unnest($5::text[], $6::text[]) as rule (device, metric) where rest.metric like rule.metric and c.device_id like rule.device)
        limit case when cardinality(c.names) >= $7 then 1 end
    ) n
    where cardinality(c.names) > 50 or cardinality(c.names) >= $7
)
-- and metrics_new
