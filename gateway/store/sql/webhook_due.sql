-- $1 now, $2 endpoints with attempts under way, $3 how many of each, $4 most attempts of an endpoint at once, $5 most in all.
-- The first pending delivery of each lane, if its time has come. Lanes are found by steps in the index. An endpoint that fails gets one attempt at a time.
select w.endpoint_id, head.position
from webhook_endpoint w
left join unnest($2::text[], $3::int[]) as busy (endpoint_id, held) using (endpoint_id)
cross join lateral (
-- and webhook_heads
    select d.position
    from heads
    join webhook_delivery d on d.position = heads.position and d.endpoint_id = w.endpoint_id
    where (d.next_at is null or d.next_at <= $1) and (d.lease_until is null or d.lease_until <= now())
    order by d.next_at nulls first, d.position
    limit greatest(0, case when w.failing_since is null then $4 else 1 end - coalesce(busy.held, 0))
) head
where w.disabled_at is null
order by w.failing_since nulls first, head.position
limit $5
