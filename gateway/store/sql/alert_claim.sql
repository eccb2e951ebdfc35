-- $1 owner, $2 lease seconds, $3 connection ids this replica serves, $4 how many, $5 streams that the owner works on already.
-- Streams of alerts that are due, that have something to do, and that nobody works on: samples or records that came, silence that is to be looked at, or
-- calls. The log is judged also while the system may not be called: `callable` says whether it may. `records`: where the record log ends.
-- In steps: of thousands that are idle none is looked for among those that are served, which takes as long as all the rest.
with ready as materialized (
    select alert_stream.connection_id, alert_stream.next_run_at, may.call as callable, coalesce(record_log.position, 0) as records
    from alert_stream
    join connection using (connection_id)
    cross join lateral (select connection.state in ('active', 'degraded') and alert_stream.calls_at <= now() as call) may
    left join customer_log on customer_log.customer_id = alert_stream.customer_id
    left join record_log on record_log.customer_id = alert_stream.customer_id
    where alert_stream.next_run_at <= now()
      and connection.state not in ('pending', 'disconnecting', 'disconnected')
      and (alert_stream.lease_until is null or alert_stream.lease_until <= now() or alert_stream.lease_owner = $1)
      and concat_ws('/', alert_stream.connection_id, 'alerts', 'alerts') <> all($5)
      and (customer_log.position > alert_stream.watermark
           or record_log.position > alert_stream.followed
           or exists (select from alert_judgement where alert_judgement.connection_id = alert_stream.connection_id and alert_judgement.due_at <= now())
           or (may.call and exists (select from alert where alert.connection_id = alert_stream.connection_id and alert.due_at <= now())))
), served as materialized (
    select ready.*
    from ready
    join unnest($3::text[]) as given (connection_id) using (connection_id)
    order by next_run_at
    limit $4
), free as materialized (
    select stream.connection_id, served.callable, served.records
    from served
    cross join lateral (
        select alert_stream.connection_id from alert_stream
        where alert_stream.connection_id = served.connection_id
          and alert_stream.next_run_at <= now() and (alert_stream.lease_until is null or alert_stream.lease_until <= now() or alert_stream.lease_owner = $1)
        for update skip locked
    ) stream
)
update alert_stream
set lease_owner = $1, lease_until = now() + in_seconds($2), fence = alert_stream.fence + 1
from free
where alert_stream.connection_id = free.connection_id
returning alert_stream.connection_id, alert_stream.customer_id, alert_stream.fence, alert_stream.attempts, alert_stream.put_off, free.callable, free.records
