-- $1 connection, $2 meters, $3 window starts. Makes windows due again that a push of ours may have changed after we lost the lease, as far as they are still windows.
insert into due_window (connection_id, meter, window_start, phase, closes_at)
select $1, sent.meter, sent.window_start, 'incremental', now()
from unnest($2::text[], $3::timestamptz[]) as sent (meter, window_start)
join connection c on c.connection_id = $1
join meter_mapping m on m.connection_id = $1 and m.meter = sent.meter
    and case m.calendar when '' then date_bin(m.span, sent.window_start, 'epoch') = sent.window_start
                        else calendar_end(c.customer_id, m.calendar, sent.window_start) is not null end
order by sent.meter, sent.window_start
on conflict (connection_id, meter, window_start) do update set mark = excluded.mark
