-- $1 connection, $2 ids, null for all. Marks their windows due again and lets go of the letters. Those stay whose window nobody would
-- compute: of a meter that is no longer mapped, or is by other windows, or where no sample is left.
with taken as (
    delete from dead_letter d using meter_mapping m, connection c
    where d.connection_id = $1 and ($2::bigint[] is null or d.dead_letter_id = any($2)) and m.connection_id = d.connection_id and m.meter = d.meter
      and c.connection_id = $1
      and date_bin(m.span, d.window_start, 'epoch') = d.window_start
      and exists (
          select from telemetry t
          where t.customer_id = c.customer_id and t.device_id = m.device_id
            and t.ts >= d.window_start and t.ts < d.window_start + m.span and t.metrics ? m.metric
      )
    returning d.meter, d.window_start
), marked as (
    insert into due_window as held (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, window_start, 'incremental', now() from taken
    order by meter, window_start  -- every writer takes windows in this order
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark, attempts = 0
)
select count(*) from taken
