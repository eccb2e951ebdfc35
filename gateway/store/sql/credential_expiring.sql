-- $1 now. Credentials in use that end within 7 days, or 1, and for which that was not announced; marks them as announced.
with due as (
    select c.connection_id, c.generation, n.customer_id, case when c.expires_at <= $1::timestamptz + interval '1 day' then 1 else 7 end as days
    from credential c
    join connection n on n.connection_id = c.connection_id and n.generation = c.generation
    where c.expires_at <= $1::timestamptz + interval '7 days'
      and n.state not in ('disconnecting', 'disconnected')
      and (c.announced_days is null or (c.announced_days > 1 and c.expires_at <= $1::timestamptz + interval '1 day'))
    for update of c skip locked
)
update credential c
set announced_days = due.days
from due
where (c.connection_id, c.generation) = (due.connection_id, due.generation)
returning c.connection_id, due.customer_id, c.type, c.expires_at, due.days
