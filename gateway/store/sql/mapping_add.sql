-- $1 connection, then one array a column. The first mapping of a meter stays; one that changed its feed or window replaces it.
insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span, deadband, unit)
select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::interval[], $7::float8[], $8::text[])
on conflict (connection_id, meter) do update
    set device_id = excluded.device_id, metric = excluded.metric, reduce = excluded.reduce, span = excluded.span,
        deadband = excluded.deadband, unit = excluded.unit, retry_at = null
