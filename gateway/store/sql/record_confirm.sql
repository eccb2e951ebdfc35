-- $1 customer, $2 connection, $3 stream. What a person was told is missing, and nothing else, goes with the next walk that does not meet it. The record log is
-- locked. How many.
with confirmed as (
    update record set unseen = 3 where (customer_id, connection_id, stream) = ($1, $2, $3) and not deleted and unseen >= 2 returning true
)
select count(*) from confirmed
