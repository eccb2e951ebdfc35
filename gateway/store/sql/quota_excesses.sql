-- $1 customer or null for all, $2 and $3 the last of the page before ('' at first), $4 limit. Who is over a quota now.
select customer_id, quota, allowed, device_id, since, last_at, dead_letters, dropped, dropped_bytes, slowed_seconds
from quota_excess
where ended_at is null and ($1::text is null or customer_id = $1) and (customer_id, quota) > ($2, $3)
order by customer_id, quota
limit $4
