-- $1 the day of a telemetry partition, $2 whether of a later day, too. Connections that still want something of that day or of one before it: history that is not
-- walked, samples that are not scanned, windows that are not delivered. Of one before it, for nothing is computed of what begins before a day that was dropped.
-- So with $2 they want it as well while they have not scanned samples of a later day whose window may begin in this one.
select c.connection_id, c.customer_id
from connection c
where c.state <> 'disconnected' and (
    exists (select from stream s where s.connection_id = c.connection_id and s.phase = 'initial' and s.state <> 'done'
              and s.initial_cursor < ($1::date + 1)::timestamptz)
    or exists (
        select from stream s
        join customer_day d on d.customer_id = c.customer_id and d.day <= $1::date + 366 and d.reaches > s.watermark
        where s.connection_id = c.connection_id and s.phase = 'incremental' and (
            d.day <= $1 or $2 and exists (
                select from jsonb_array_elements(c.meters) rule
                -- where the window of the day's first instant begins, at the earliest; the lengths are those of Calendar.longest
                where case jsonb_typeof(rule -> 'every')
                          -- of `each`, which has no windows, it may be nothing
                          when 'number' then date_bin(greatest(in_seconds((rule ->> 'every')::float8), interval '1 second'), d.day::timestamptz, 'epoch')
                          else d.day::timestamptz - case when rule ->> 'every' in ('day', 'shift') then interval '25 hours'
                                                         when rule ->> 'every' = 'week' then interval '169 hours'
                                                         else interval '745 hours' end
                      end < ($1::date + 1)::timestamptz
            )
        ) and exists (
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
