-- $1 connection, $2 ids, null for all. Marks their windows due again and removes the letters. Those stay whose window nobody would
-- compute: of a meter that is no longer mapped, or is by other windows, or where no sample is left.
-- Letters are taken before windows and both in one order, as deliveries take them.
with places as materialized (
    select d.dead_letter_id from dead_letter d
    join connection c on c.connection_id = d.connection_id
    join meter_mapping m on m.connection_id = d.connection_id and m.meter = d.meter
    where d.connection_id = $1 and ($2::bigint[] is null or d.dead_letter_id = any($2))
      and (m.calendar <> '' or date_bin(m.span, d.window_start, 'epoch') = d.window_start)  -- of a calendar what is no window has no end
      and exists (
          select from telemetry t
          where t.customer_id = c.customer_id and t.device_id = m.device_id
            and t.ts >= d.window_start and t.ts < case m.calendar when '' then d.window_start + m.span else calendar_end(c.customer_id, m.calendar, d.window_start) end
            and t.metrics ? m.metric
      )
    order by d.meter, d.window_start
    for update of d
), taken as (
    delete from dead_letter d using places where d.dead_letter_id = places.dead_letter_id
    returning d.meter, d.window_start
), marked as (
    insert into due_window as held (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, window_start, 'incremental', now() from taken
    order by meter, window_start  -- every writer takes windows in this order
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark, attempts = 0
)
select count(*) from taken
