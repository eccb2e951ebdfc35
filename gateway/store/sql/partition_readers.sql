-- $1 the day of a telemetry partition. Connections that still want something of that day or of one before it: history that is not walked, samples
-- that are not scanned, windows that are not delivered. Of one before it, for nothing is computed of what begins before a day that was dropped.
select c.connection_id, c.customer_id
from connection c
where c.state <> 'disconnected' and (
    exists (select from stream s where s.connection_id = c.connection_id and s.phase = 'initial' and s.state <> 'done'
              and s.initial_cursor < ($1::date + 1)::timestamptz)
    or exists (
        select from stream s
        join customer_day d on d.customer_id = c.customer_id and d.day <= $1 and d.reaches > s.watermark
        where s.connection_id = c.connection_id and s.phase = 'incremental' and exists (
            select from telemetry t
            where t.customer_id = c.customer_id and t.revision > s.watermark
              and t.ts >= d.day::timestamptz and t.ts < (d.day + 1)::timestamptz
        )
    )
    -- the phases are named so that each is one look at an index, whatever is due
    or exists (select from due_window d where d.connection_id = c.connection_id and d.phase = 'initial' and d.window_start < ($1::date + 1)::timestamptz)
    or exists (select from due_window d where d.connection_id = c.connection_id and d.phase = 'incremental' and d.window_start < ($1::date + 1)::timestamptz)
)
order by c.connection_id
