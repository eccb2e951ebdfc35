-- $1 customer, $2 before, $3 limit. Removes records that were deleted before that, and notes up to which position readers may have missed one; how many.
-- The log is locked.
with old as materialized (
    select customer_id, connection_id, stream, key from record where deleted and modified_at < $2 and customer_id = $1 limit $3
), removed as (
    delete from record r using old
    where (r.customer_id, r.connection_id, r.stream, r.key) = (old.customer_id, old.connection_id, old.stream, old.key)
    returning r.customer_id, r.connection_id, r.stream, r.revision
), counted as (
    update inbound_count n set held = n.held - gone.count
    from (select customer_id, connection_id, stream, count(*) as count from removed group by 1, 2, 3) gone
    where (n.customer_id, n.connection_id, n.stream) = (gone.customer_id, gone.connection_id, gone.stream)
), noted as (
    update record_log l set expired_to = greatest(l.expired_to, (select max(revision) from removed)) where l.customer_id = $1 and exists (select from removed)
)
select count(*) from removed
