-- $1 connection, $2 name, $3 phase, $4 fence, $5 lease seconds, $6 meters, $7 window starts, $8 values as JSON.
-- The last step of a transaction: the lease is ours and begins anew, the batch gets its position, and is about to be sent. No row: the lease is lost.
-- The position is above every one before it also when the clock went back, and above those of a dump that was restored.
with held as (
    update stream set lease_until = clock_timestamp() + in_seconds($5)
    where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
    returning true
), clock as (
    insert into delivery_clock as last (connection_id, position)
    select $1, (extract(epoch from clock_timestamp()) * 1000000)::bigint from held
    on conflict (connection_id) do update set position = greatest(last.position + 1, excluded.position)
    returning position
)
insert into push_intent (connection_id, name, phase, position, fence, meters, window_starts, "values", sent_at)
select $1, $2, $3, clock.position, $4, $6, $7, $8, clock_timestamp() from clock
on conflict (connection_id, name, phase) do update
    set position = excluded.position, fence = excluded.fence, meters = excluded.meters, window_starts = excluded.window_starts,
        "values" = excluded."values", sent_at = excluded.sent_at
returning position
