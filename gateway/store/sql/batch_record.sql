-- $1 connection, $2 name, $3 phase, $4 fence, $5 seconds for which the lease begins anew (0: it stays), $6 meters, $7 window starts, $8 values as JSON (null: there was nothing to tell),
-- $9 remote ids, $10 marks; $11 meters, $12 window starts and $13 values of the batch that is sent next, null where none is; $14 whether
-- a connection that is blocked is tried, $15 configuration of the link. It is sent only while the connection may call its system, by this link: somebody may have paused it since the run began, or changed its settings.
-- What `commit` does for a batch of which nothing was refused or is in doubt, in one statement that is a transaction: a round trip and not ten.
-- Each part waits for the one before, so that locks are taken in the one order of every transaction: streams' rows in share, windows in the order
-- of their key, deliveries, and last the proof. Returns the position of the next
-- batch, null where none is sent, and whether windows stay due because samples came for them meanwhile; raises FG001 when the lease is lost, which undoes everything.
with held as materialized (
    select true from stream where (connection_id, name, phase, fence) = ($1, $2, $3, $4) for key share
), given as materialized (
    select * from unnest($6::text[], $7::timestamptz[], $8::text[], $9::text[], $10::bigint[]) as made (meter, window_start, value, remote_id, mark)
    where exists (select from held)
), places as materialized (
    select taken.place
    from (select meter, window_start, mark from given order by meter, window_start) done
    cross join lateral (
        select d.ctid as place from due_window d
        where d.connection_id = $1 and d.meter = done.meter and d.window_start = done.window_start and d.mark = done.mark
        for update
    ) taken
), gone as (
    delete from due_window d using places where d.ctid = places.place
    returning true
), made as (
    insert into delivery as known (connection_id, meter, window_start, value, remote_id)
    select $1, meter, window_start, value::jsonb, remote_id
    from given
    where value is not null and (select count(*) from gone) >= 0
    on conflict (connection_id, meter, window_start) do update
        set value = excluded.value, remote_id = coalesce(excluded.remote_id, known.remote_id), delivered_at = now()
    returning true
), proved as (
    update stream set lease_until = case when $5::float8 > 0 then clock_timestamp() + in_seconds($5) else lease_until end
    where (connection_id, name, phase, fence) = ($1, $2, $3, $4) and (select count(*) from made) >= 0
    returning true
), sent as (
    select true from proved
    where $11::text[] is not null
        and exists (select from connection where connection_id = $1 and settings_since <= $15 and (state in ('active', 'degraded') or (state = 'blocked' and $14)))
), removed as (
    delete from push_intent
    where (connection_id, name, phase) = ($1, $2, $3) and not exists (select from sent) and exists (select from proved)
), clock as (
    insert into delivery_clock as last (connection_id, position)
    select $1, (extract(epoch from clock_timestamp()) * 1000000)::bigint from sent
    on conflict (connection_id) do update set position = greatest(last.position + 1, excluded.position)
    returning position
), armed as (
    insert into push_intent (connection_id, name, phase, position, fence, meters, window_starts, "values", sent_at)
    select $1, $2, $3, clock.position, $4, $11, $12, $13::text[], clock_timestamp() from clock
    on conflict (connection_id, name, phase) do update
        set position = excluded.position, fence = excluded.fence, meters = excluded.meters, window_starts = excluded.window_starts,
            "values" = excluded."values", sent_at = excluded.sent_at
    returning position
)
select case when exists (select from proved) then (select position from armed) else lease_lost() end as position,
       (select count(*) from given) > (select count(*) from gone) as is_outdated
