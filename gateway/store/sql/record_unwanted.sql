-- $1 limit. Records that the broker keeps although their connection, which goes on, wants that no more.
select r.customer_id, r.connection_id, r.stream, r.key, r.retained
from record r join connection c using (connection_id)
where r.retained and c.sync ->> 'publish_records' is distinct from 'retained' and c.state <> 'disconnected'
limit $1
