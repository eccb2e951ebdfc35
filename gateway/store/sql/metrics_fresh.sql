-- $1 customer, $2 past this position, $3 up to this one, $4 connection, $5 and $6 rules: devices and metrics, as patterns of LIKE; $7 how many metrics of one
-- device patterns may take, $8 an expression that fits whatever $6 fit. Of the samples the metrics that patterns match and that were never compared, in order; `is_beyond`: the first one of a device that
-- has too many.
-- Names that no pattern fits may be ever new, and many: they go before names are told apart, and before they are held against each rule by itself.
-- To take a few names out of a sample is quick, but costs each of them for each that it has: of a device with many, the sample's are looked up.
with slice as materialized (
    select device_id, metrics from telemetry_between($1, $2, $3)
), compared as materialized (
    select d.device_id, array(select m.metric from matched_metric m where m.connection_id = $4 and m.device_id = d.device_id) as names
    from (select distinct device_id from slice) d
    where exists (select from unnest($5::text[]) as rule (device) where d.device_id like rule.device)
), known as materialized (
    select c.device_id, name from compared c cross join lateral unnest(c.names) as name where cardinality(c.names) > 50 or cardinality(c.names) >= $7
), named as materialized (
    select distinct rest.device_id, n.metric
    from (
        select s.device_id, s.metrics - c.names as metrics from slice s join compared c on c.device_id = s.device_id where cardinality(c.names) <= 50 and cardinality(c.names) < $7 offset 0
    ) rest
    cross join lateral jsonb_object_keys(rest.metrics) as n (metric)
    where rest.metrics <> '{}' and n.metric ~ $8
    union all
    select distinct rest.device_id, rest.metric
    from (
        select s.device_id, keys.metric
        from compared c
        join slice s on s.device_id = c.device_id
        cross join lateral jsonb_object_keys(s.metrics) as keys (metric)
        where cardinality(c.names) > 50 and cardinality(c.names) < $7
          and (s.device_id, keys.metric) not in (select known.device_id, known.name from known)
        offset 0
    ) rest
    where rest.metric ~ $8
    union all
    select c.device_id, n.metric
    from compared c
    cross join lateral (
        select rest.metric
        from (
            select keys.metric
            from slice s
            cross join lateral jsonb_object_keys(s.metrics) as keys (metric)
            where s.device_id = c.device_id and (s.device_id, keys.metric) not in (select known.device_id, known.name from known)
            offset 0
        ) rest
        where rest.metric ~ $8
          and exists (select from unnest($5::text[], $6::text[]) as rule (device, metric) where rest.metric like rule.metric and c.device_id like rule.device)
        limit 1
    ) n
    where cardinality(c.names) >= $7
)
-- and metrics_new
