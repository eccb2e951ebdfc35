-- $1 owner, $2 lease seconds, $3 connection ids this replica serves, $4 how many, $5 streams that the owner works on already.
-- Streams that are due, whose connection may call its system, and that nobody works on.
update inbound_stream s
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = s.fence + 1
from (
    select s.customer_id, s.connection_id, s.stream, s.phase
    from inbound_stream s
    join connection c using (connection_id)
    where s.next_run_at <= now()
      and s.state not in ('done', 'off')
      and c.state in ('active', 'degraded')
      and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
      and concat_ws('/', s.connection_id, s.stream, s.phase) <> all($5)
      and s.connection_id = any($3)
    order by s.next_run_at
    limit $4
    for update of s skip locked
) picked
where (s.customer_id, s.connection_id, s.stream, s.phase) = (picked.customer_id, picked.connection_id, picked.stream, picked.phase)
returning s.customer_id, s.connection_id, s.stream, s.phase, s.fence, s.attempts, s.put_off
