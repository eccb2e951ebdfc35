-- $1 the day of a telemetry partition. Whether a stream that is not at its end still wants something of that day.
select exists (select from stream where phase = 'initial' and state <> 'done' and initial_cursor < ($1::date + 1)::timestamptz)
    or exists (
        select from stream s
        join connection c using (connection_id)
        where s.phase = 'incremental' and exists (
            select from telemetry t
            where t.customer_id = c.customer_id and t.revision >= s.watermark
              and t.ts >= $1::date::timestamptz and t.ts < ($1::date + 1)::timestamptz
        )
    )
    or exists (select from due_window where window_start < ($1::date + 1)::timestamptz)
