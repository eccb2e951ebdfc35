-- $1 connections whose oldest unread telemetry is about to be dropped. Those that were not told yet are marked so, and are the result;
-- the others that had been told are no longer: they have read on.
with calm as (
    update connection set buffer_told_at = null, version = version + 1
    where buffer_told_at is not null and connection_id <> all($1)
    returning connection_id
), solved as (
    update issue set solved_at = now()
    where code = 'buffer_filling' and solved_at is null and connection_id in (select connection_id from calm)
)
update connection set buffer_told_at = now(), version = version + 1
where buffer_told_at is null and connection_id = any($1)
returning connection_id
