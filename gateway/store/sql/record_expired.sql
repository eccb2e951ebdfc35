-- $1 before, $2 limit. Customers with records that were deleted before that.
select distinct customer_id from (select customer_id from record where deleted and modified_at < $1 limit $2) old
