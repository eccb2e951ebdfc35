-- $1 customer, $2 connection, $3 stream, $4 key. One record with the times of its changes.
select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference,
       r.changed_at
from record r join connection c using (connection_id)
where (r.customer_id, r.connection_id, r.stream, r.key) = ($1, $2, $3, $4) and c.state not in ('disconnecting', 'disconnected')
