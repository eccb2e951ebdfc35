-- $1 connection, $2 ids, null for all. Marks their windows due again and removes the letters. Those stay whose window nobody would
-- compute: of a meter that is no longer mapped, or is by other windows, or where no sample is left, or not all of them are. What is held from before
-- a window is a sample of it.
-- Letters are taken before windows and both in one order, as deliveries take them.
with places as materialized (
    select dead_letter.dead_letter_id from dead_letter
    join connection on connection.connection_id = dead_letter.connection_id
    join meter_mapping on meter_mapping.connection_id = dead_letter.connection_id and meter_mapping.meter = dead_letter.meter
    where dead_letter.connection_id = $1 and ($2::bigint[] is null or dead_letter.dead_letter_id = any($2))
      and (meter_mapping.calendar <> '' or date_bin(meter_mapping.span, dead_letter.window_start, 'epoch') = dead_letter.window_start)  -- of a calendar what is no window has no end
      and exists (
          select from telemetry
          where telemetry.customer_id = connection.customer_id and telemetry.device_id = meter_mapping.device_id
            and telemetry.ts >= dead_letter.window_start - coalesce(meter_mapping.hold, interval '0')
            and telemetry.ts < case meter_mapping.calendar when '' then dead_letter.window_start + meter_mapping.span else calendar_end(connection.customer_id, meter_mapping.calendar, dead_letter.window_start) end
            and telemetry.metrics ? meter_mapping.metric
      )
      and not exists (select from telemetry_dropped d where d.customer_id = connection.customer_id and d.until > dead_letter.window_start)
    order by dead_letter.meter, dead_letter.window_start
    for update of dead_letter
), taken as (
    delete from dead_letter using places where dead_letter.dead_letter_id = places.dead_letter_id
    returning dead_letter.meter, dead_letter.window_start
), marked as (
    insert into due_window as held (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, window_start, 'incremental', now() from taken
    order by meter, window_start  -- every writer takes windows in this order
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark, attempts = 0
)
select count(*) from taken
