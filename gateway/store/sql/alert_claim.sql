-- $1 owner, $2 lease seconds, $3 connection ids this replica serves, $4 how many, $5 streams that the owner works on already.
-- Streams of alerts that are due, that have something to do, and that nobody works on: samples or records that came, silence that is to be looked at, or
-- calls. The log is judged also while the system may not be called: `callable` says whether it may. `records`: where the record log ends.
-- In steps: of thousands that are idle none is looked for among those that are served, which takes as long as all the rest.
with ready as materialized (
    select s.connection_id, s.next_run_at, may.call as callable, coalesce(r.position, 0) as records
    from alert_stream s
    join connection c using (connection_id)
    cross join lateral (select c.state in ('active', 'degraded') and s.calls_at <= now() as call) may
    left join customer_log l on l.customer_id = s.customer_id
    left join record_log r on r.customer_id = s.customer_id
    where s.next_run_at <= now()
      and c.state not in ('pending', 'disconnecting', 'disconnected')
      and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
      and concat_ws('/', s.connection_id, 'alerts', 'alerts') <> all($5)
      and (l.position > s.watermark
           or r.position > s.followed
           or exists (select from alert_judgement j where j.connection_id = s.connection_id and j.due_at <= now())
           or (may.call and exists (select from alert a where a.connection_id = s.connection_id and a.due_at <= now())))
), served as materialized (
    select ready.*
    from ready
    join unnest($3::text[]) as given (connection_id) using (connection_id)
    order by next_run_at
    limit $4
), free as materialized (
    select s.connection_id, served.callable, served.records
    from served
    cross join lateral (
        select s.connection_id from alert_stream s
        where s.connection_id = served.connection_id
          and s.next_run_at <= now() and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
        for update skip locked
    ) s
)
update alert_stream s
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = s.fence + 1
from free
where s.connection_id = free.connection_id
returning s.connection_id, s.customer_id, s.fence, s.attempts, s.put_off, free.callable, free.records
