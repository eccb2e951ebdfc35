-- $1 now. Seconds until the first pending delivery of some lane is due, as webhook_due finds it; null where nothing waits for an endpoint that is not disabled.
select extract(epoch from min(greatest(head.next_at - $1, head.lease_until - now(), interval '0')))::float8
from webhook_endpoint w
cross join lateral (
-- and webhook_heads
    select d.next_at, d.lease_until
    from heads
    join webhook_delivery d on d.position = heads.position and d.endpoint_id = w.endpoint_id
) head
where w.disabled_at is null
