-- $1 connection, then one array a column. The first mapping of a meter stays; one that changed its feed, window or arithmetic replaces it.
insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span, deadband, unit,
                           max_silence, scale, value_offset, rollover, reset_below, threshold, valid_low, valid_high, hold, calendar, conversion)
select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::interval[], $7::float8[], $8::text[],
                         $9::interval[], $10::float8[], $11::float8[], $12::float8[], $13::float8[], $14::float8[], $15::float8[],
                         $16::float8[], $17::interval[], $18::text[], $19::jsonb[])
on conflict (connection_id, meter) do update
    set device_id = excluded.device_id, metric = excluded.metric, reduce = excluded.reduce, span = excluded.span,
        deadband = excluded.deadband, unit = excluded.unit, max_silence = excluded.max_silence, scale = excluded.scale,
        value_offset = excluded.value_offset, rollover = excluded.rollover, reset_below = excluded.reset_below,
        threshold = excluded.threshold, valid_low = excluded.valid_low, valid_high = excluded.valid_high, hold = excluded.hold, calendar = excluded.calendar, conversion = excluded.conversion,
        retry_at = null
