-- $1 connection, $2 name, $3 phase, $4 fence, $5 lease seconds, $6 meters, $7 window starts, $8 values as JSON.
-- The last step of a transaction: the lease is ours and begins anew, the batch gets its position, and is about to be sent. No row: the lease is lost.
-- $9 whether a connection that is blocked is tried, $10 configuration of the link, which may have other settings by now. The position is null, and no batch on its way, where the connection may not call its system any more.
-- The position is above every one before it also when the clock went back, and above those of a dump that was restored.
with held as (
    update stream set lease_until = clock_timestamp() + in_seconds($5)
    where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
    returning true
), sent as (
    select true from held
    where exists (select from connection where connection_id = $1 and settings_since <= $10 and (state in ('active', 'degraded') or (state = 'blocked' and $9)))
), removed as (
    delete from push_intent
    where (connection_id, name, phase) = ($1, $2, $3) and not exists (select from sent) and exists (select from held)
), clock as (
    insert into delivery_clock as last (connection_id, position)
    select $1, (extract(epoch from clock_timestamp()) * 1000000)::bigint from sent
    on conflict (connection_id) do update set position = greatest(last.position + 1, excluded.position)
    returning position
), armed as (
    insert into push_intent (connection_id, name, phase, position, fence, meters, window_starts, "values", sent_at)
    select $1, $2, $3, clock.position, $4, $6, $7, $8, clock_timestamp() from clock
    on conflict (connection_id, name, phase) do update
        set position = excluded.position, fence = excluded.fence, meters = excluded.meters, window_starts = excluded.window_starts,
            "values" = excluded."values", sent_at = excluded.sent_at
    returning position
)
select (select position from armed) as position from held
