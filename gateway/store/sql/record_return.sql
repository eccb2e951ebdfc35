-- $1 customer, $2 connection, $3 stream, $4 position when the walk began, $5 position of the log, which is locked, $6 time of the change. What was taken for
-- deleted because walks did not meet it, and was met by this one, is there again, as it was last: its time is an old one, and nothing else reads it. How many.
with back as materialized (
    select r.key, row_number() over (order by r.key) as step
    from record r
    where (r.customer_id, r.connection_id, r.stream) = ($1, $2, $3) and r.deleted and r.unseen = 4 and r.revision <= $4
      and exists (select from record_seen s where (s.customer_id, s.connection_id, s.stream, s.key) = ($1, $2, $3, r.key))
), marked as (
    update record r set deleted = false, version = r.version + 1, revision = $5 + back.step, modified_at = $6, unseen = 0,
        changed_at = (r.changed_at || $6::timestamptz)[greatest(1, cardinality(r.changed_at) - 48):]
    from back where (r.customer_id, r.connection_id, r.stream, r.key) = ($1, $2, $3, back.key)
), log as (
    update record_log set position = position + (select count(*) from back) where customer_id = $1 and exists (select from back)
)
select count(*) from back
