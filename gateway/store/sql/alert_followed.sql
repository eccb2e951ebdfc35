-- $1 customer, $2 connection, $3 kinds, $4 the stream in which each kind is seen, $5 how many. What people at the system have done with alerts since it was seen last.
select a.alert_id, a.state, case when r.deleted then 'closed' else r.progress end as progress
from alert a
join unnest($3::text[], $4::text[]) as seen (kind, stream) on seen.kind = a.kind
join record r on r.customer_id = $1 and r.connection_id = $2 and r.stream = seen.stream and (r.key = a.remote_id or r.reference = a.alert_id)
where a.connection_id = $2 and a.state in ('raised', 'acknowledged')
  and (r.deleted or (r.progress = 'closed') or (r.progress = 'acknowledged' and a.state = 'raised'))
limit $5
