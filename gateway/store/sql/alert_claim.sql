-- $1 owner, $2 lease seconds, $3 connection ids this replica serves, $4 how many, $5 streams that the owner works on already.
-- Streams of alerts that are due and that nobody works on. The log is judged also while the system may not be called: `callable` says whether it may.
update alert_stream s
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = s.fence + 1
from (
    select s.connection_id, c.state in ('active', 'degraded') and s.calls_at <= now() as callable
    from alert_stream s
    join connection c using (connection_id)
    where s.next_run_at <= now()
      and c.state not in ('pending', 'disconnecting', 'disconnected')
      and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
      and s.connection_id <> all($5)
      and s.connection_id = any($3)
    order by s.next_run_at
    limit $4
    for update of s skip locked
) picked
where s.connection_id = picked.connection_id
returning s.connection_id, s.customer_id, s.fence, s.attempts, s.put_off, picked.callable
