-- $1 connection, $2 name, $3 whether new meters need the stored history, $4 days of it, $5 what the system takes at most (null: all),
-- $6 how far ahead samples may be, $7 where the log ended before the devices were read: one that registers meanwhile is found by the scan. Once for each activation or change of meters; a stream that exists keeps its watermark.
-- The initial phase ends past every sample that the watermark leaves behind it, so no gap is left; the window's key keeps the seam single.
with horizon as (
    insert into stream (connection_id, name, phase, watermark, device_watermark, meters_of)
    select $1, $2, 'incremental', $7::bigint, $7::bigint, c.meters_of
    from connection c where c.connection_id = $1
    on conflict do nothing
)
insert into stream (connection_id, name, phase, initial_from, initial_cursor, initial_until, initial_clipped_to, meters_of)
select $1, $2, 'initial', wish.start, wish.start, now() + $6::interval,
       case when $5::interval < make_interval(days => $4) then $5::interval end,
       (select c.meters_of from connection c where c.connection_id = $1)  -- a full sync begins the phase with the meters that are in force
from (select now() - least(make_interval(days => $4), coalesce($5::interval, make_interval(days => $4))) as start) wish
where $3 and $4 > 0
on conflict (connection_id, name, phase) do update
    set initial_from = excluded.initial_from, initial_cursor = excluded.initial_cursor, initial_until = excluded.initial_until,
        initial_clipped_to = excluded.initial_clipped_to, state = 'idle', next_run_at = now(),
        initial_started_at = null, initial_total = null, initial_walked = 0
