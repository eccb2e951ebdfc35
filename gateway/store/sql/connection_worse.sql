-- $1 connection, $2 operation, $3 reason, $4 request id. A degraded connection whose work fails as well: from now on the work decides.
update connection set operation = $2, reason = $3, request_id = $4, version = version + 1
where connection_id = $1 and state = 'degraded' and operation is distinct from $2
