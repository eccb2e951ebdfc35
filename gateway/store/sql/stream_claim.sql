-- $1 owner, $2 lease seconds, $3 connection ids, null for all, $4 how many, $5 streams that the owner works on already,
-- $6 connections that this replica cannot serve.
-- Streams that are due, whose connection may call its system, and that nobody works on.
update stream s
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = s.fence + 1
from (
    select s.connection_id, s.name, s.phase, c.customer_id, c.state = 'blocked' as trial
    from stream s
    join connection c using (connection_id)
    where s.next_run_at <= now()
      and s.state <> 'done'
      and (c.state in ('active', 'degraded') or (c.state = 'blocked' and s.trial))
      and (s.lease_until is null or s.lease_until <= now() or s.lease_owner = $1)
      and concat_ws('/', s.connection_id, s.name, s.phase) <> all($5)
      and ($3::text[] is null or s.connection_id = any($3))
      and s.connection_id <> all($6::text[])
    order by s.next_run_at
    limit $4
    for update of s skip locked
) picked
where (s.connection_id, s.name, s.phase) = (picked.connection_id, picked.name, picked.phase)
returning s.connection_id, s.name, s.phase, s.fence, s.attempts, s.put_off, picked.trial, picked.customer_id
