-- $1 owner, $2 lease seconds, $3 connection ids this replica serves, $4 how many, $5 streams that the owner works on already.
-- Streams of alerts that are due, that have something to do, and that nobody works on: samples or records that came, silence that is to be looked at, or
-- calls. The log is judged also while the system may not be called: `callable` says whether it may. `records`: where the record log ends.
update alert_stream s
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = s.fence + 1
from (
    select s.connection_id, may.call as callable, coalesce(r.position, 0) as records
    from alert_stream s
    join connection c using (connection_id)
    cross join lateral (select c.state in ('active', 'degraded') and s.calls_at <= now() as call) may
    left join customer_log l on l.customer_id = s.customer_id
    left join record_log r on r.customer_id = s.customer_id
    where s.next_run_at <= now()
      and c.state not in ('pending', 'disconnecting', 'disconnected')
      and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
      and concat_ws('/', s.connection_id, 'alerts', 'alerts') <> all($5)
      and s.connection_id = any($3)
      and (l.position > s.watermark
           or r.position > s.followed
           or exists (select from alert_judgement j where j.connection_id = s.connection_id and j.due_at <= now())
           or (may.call and exists (select from alert a where a.connection_id = s.connection_id and a.due_at <= now())))
    order by s.next_run_at
    limit $4
    for update of s skip locked
) picked
where s.connection_id = picked.connection_id
returning s.connection_id, s.customer_id, s.fence, s.attempts, s.put_off, picked.callable, picked.records
