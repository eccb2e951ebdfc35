-- $1 customer, $2 connection, $3 kinds, $4 the stream in which each kind is seen, $5 how many. What people at the system have done with alerts since it was seen last.
select alert.alert_id, alert.state, case when record.deleted then 'closed' else record.progress end as progress
from alert
join unnest($3::text[], $4::text[]) as seen (kind, stream) on seen.kind = alert.kind
join record on record.customer_id = $1 and record.connection_id = $2 and record.stream = seen.stream and (record.key = alert.remote_id or record.reference = alert.alert_id)
where alert.connection_id = $2 and alert.state in ('raised', 'acknowledged')
  and (record.deleted or (record.progress = 'closed') or (record.progress = 'acknowledged' and alert.state = 'raised'))
limit $5
