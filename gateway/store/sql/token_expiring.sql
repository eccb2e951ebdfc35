-- $1 now. Refresh tokens in use that end within 7 days, or 1, and for which that was not announced; marks them as announced.
-- One that each refresh renews is not about to end, however short its life: it counts when the last refresh did not move its end, or
-- when it was given for longer than that and no refresh has come since.
with near as (
    select t.connection_id, t.generation, n.customer_id, c.type, case when t.refresh_expires_at <= $1::timestamptz + interval '1 day' then 1 else 7 end as days
    from token t
    join connection n on n.connection_id = t.connection_id and n.generation = t.generation
    join credential c on c.connection_id = t.connection_id and c.generation = t.generation
    where t.refresh_expires_at <= $1::timestamptz + interval '7 days'
      and n.state not in ('disconnecting', 'disconnected')
      and t.refused is null
    for update of t skip locked
)
update token t
set announced_days = near.days
from near
where (t.connection_id, t.generation) = (near.connection_id, near.generation)
  and (t.announced_days is null or t.announced_days > near.days)
  and (t.refresh_is_fixed or t.obtained_at + make_interval(days => near.days) < t.refresh_expires_at)
returning t.connection_id, near.customer_id, near.type, t.refresh_expires_at as expires_at, near.days
