-- $1 connection, $2 ids, null for all. Marks their windows due again and lets go of the letters. Those whose meter is no longer mapped stay.
-- Letters are taken before windows and both in one order, as deliveries take them.
with places as materialized (
    select d.ctid from dead_letter d
    join meter_mapping m on m.connection_id = d.connection_id and m.meter = d.meter
    where d.connection_id = $1 and ($2::bigint[] is null or d.dead_letter_id = any($2))
    order by d.meter, d.window_start
    for update of d
), taken as (
    delete from dead_letter d using places where d.ctid = places.ctid
    returning d.meter, d.window_start
), marked as (
    insert into due_window as held (connection_id, meter, window_start, phase, closes_at)
    select $1, meter, window_start, 'incremental', now() from taken
    order by meter, window_start  -- every writer takes windows in this order
    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark, attempts = 0
)
select count(*) from taken
