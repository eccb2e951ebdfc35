-- $1 connection, $2 name, $3 phase, $4 seconds that a push may take, 0 where the system keeps the later position by itself.
-- The windows of a batch whose writer recorded no outcome are in doubt; how many. Nothing is asked or sent before what is under way has arrived.
with gone as (
    delete from push_intent where (connection_id, name, phase) = ($1, $2, $3)
    returning meters, window_starts, "values", sent_at
), doubted as (
    insert into delivery_doubt (connection_id, meter, window_start, value, ask_at)
    select $1, sent.meter, sent.window_start, sent.value::jsonb, case when $4::float8 > 0 then gone.sent_at + in_seconds($4) else now() end
    from gone
    cross join lateral unnest(gone.meters, gone.window_starts, gone."values") as sent (meter, window_start, value)
    order by sent.meter, sent.window_start
    on conflict (connection_id, meter, window_start) do update set value = excluded.value, ask_at = excluded.ask_at, mark = excluded.mark
    returning true
)
select count(*) from doubted
