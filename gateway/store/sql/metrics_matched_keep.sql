-- $1 connection, $2 devices, $3 metrics: those that stay. A rule that comes back finds the others again.
delete from matched_metric m
where m.connection_id = $1 and not exists (
    select from unnest($2::text[], $3::text[]) as kept (device_id, metric) where kept.device_id = m.device_id and kept.metric = m.metric
)
