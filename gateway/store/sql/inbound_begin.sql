-- $1 customer, $2 connection, $3 streams, $4 phases of them, one array a column, $5 days of history.
-- The rows of what is to be read. What is there keeps its place; history that was wished longer is read again; what is wished no more is off.
with wanted as (
    select * from unnest($3::text[], $4::text[]) as wanted (stream, phase)
), off as (
    update inbound_stream s set state = 'off', lease_owner = null, lease_until = null, fence = fence + 1
    where s.customer_id = $1 and s.connection_id = $2 and s.state <> 'off'
      and not exists (select from wanted w where w.stream = s.stream and w.phase = s.phase)
)
insert into inbound_stream as s (customer_id, connection_id, stream, phase, initial_days)
select $1, $2, w.stream, w.phase, $5 from wanted w
on conflict (customer_id, connection_id, stream, phase) do update
    set state = 'idle', next_run_at = now(), initial_days = excluded.initial_days, attempts = 0
    where s.state = 'off' or (s.phase = 'initial' and s.initial_days < excluded.initial_days)
