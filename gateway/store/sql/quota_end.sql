-- $1 for how long nothing came over a quota, until that is over. Those of which it now is.
update quota_excess set ended_at = now()
where (customer_id, quota) in (
    select customer_id, quota from quota_excess where ended_at is null and last_at < now() - $1::interval for update skip locked
)
returning customer_id, quota, allowed, device_id, since, last_at, dead_letters, dropped, dropped_bytes, slowed_seconds
