, fresh as materialized (
    select n.device_id, n.metric, row_number() over (partition by n.device_id order by n.metric) as place
    from named n
    where exists (select from unnest($5::text[], $6::text[]) as rule (device, metric) where n.metric like rule.metric and n.device_id like rule.device)
), counted as (
    select f.*, cardinality(c.names) + f.place as metrics from fresh f join compared c on c.device_id = f.device_id
)
select device_id, metric, metrics > $7 as is_beyond from counted where metrics <= $7 + 1 order by device_id, metric
