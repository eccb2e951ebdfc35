-- $1 seconds, $2 how many. What has stood in the way of a connection for longer, and at once what keeps it from being built.
select t.connection_id, t.part, t.detail, t.since
from connection_trouble t join connection c using (connection_id)
where c.state not in ('disconnecting', 'disconnected') and (t.part = 'build' or t.since < now() - in_seconds($1))
order by t.part <> 'build', t.since, t.connection_id, t.part
limit $2
