-- $1 customer, $2 connection, $3 stream, $4 position when the walk began, $5 position of the log, which is locked, $6 time of the change,
-- $7 how sure it has to be: 1 whatever two walks of all keys in a row have not seen, 3 only what a person confirmed. It is deleted, and known to be so (4) until it is met again. How many.
with gone as materialized (
    select r.key, row_number() over (order by r.key) as step
    from record r
    where (r.customer_id, r.connection_id, r.stream) = ($1, $2, $3) and not r.deleted and r.revision <= $4 and r.unseen >= $7
      and not exists (select from record_seen s where (s.customer_id, s.connection_id, s.stream, s.key) = ($1, $2, $3, r.key))
), marked as (
    update record r set deleted = true, version = r.version + 1, revision = $5 + gone.step, modified_at = $6, unseen = 4,
        changed_at = (r.changed_at || $6::timestamptz)[greatest(1, cardinality(r.changed_at) - 48):]
    from gone where (r.customer_id, r.connection_id, r.stream, r.key) = ($1, $2, $3, gone.key)
), log as (
    update record_log set position = position + (select count(*) from gone) where customer_id = $1 and exists (select from gone)
)
select count(*) from gone
