-- $1 connection, $2 limit. The newest first.
select at, from_state, to_state, trigger, reason, actor, request_id
from connection_audit where connection_id = $1 order by at desc, audit_id desc limit $2
