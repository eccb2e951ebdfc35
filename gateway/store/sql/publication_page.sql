-- $1 customer, $2 position, $3 limit. The next records to tell, with how their connection wants them told.
select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference,
       r.retained, case when c.state in ('disconnecting', 'disconnected') then 'off' else coalesce(c.sync ->> 'publish_records', 'changes') end as mode
from record r join connection c using (connection_id)
where r.customer_id = $1 and r.revision > $2
order by r.revision
limit $3
