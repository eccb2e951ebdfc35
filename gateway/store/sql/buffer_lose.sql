-- $1 connection, $2 customer, $3 a day that is dropped although the connection has not done with it.
-- Its windows until then go, and its streams begin behind it: what is left of a window would be a wrong value. How much that is.
with windows as (
    delete from due_window where connection_id = $1 and window_start < ($3::date + 1)::timestamptz returning 1
), moved as (
    update stream
    set lost_until = greatest(lost_until, ($3::date + 1)::timestamptz),
        initial_cursor = case when initial_cursor is not null
            then greatest(initial_cursor, least(initial_until, ($3::date + 1)::timestamptz)) end
    where connection_id = $1
), told as (
    update connection set version = version + 1 where connection_id = $1
)
select (select count(*) from windows) as windows,
       (select count(*) from telemetry t
        where t.customer_id = $2 and t.ts >= $3::date::timestamptz and t.ts < ($3::date + 1)::timestamptz
          and t.revision > (select min(s.watermark) from stream s where s.connection_id = $1 and s.phase = 'incremental')) as samples
