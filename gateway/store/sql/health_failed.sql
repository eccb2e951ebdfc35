-- $1 connection, $2 customer, $3 system, $4 host, $5 seconds ago, $6 operation, $7 request id or null, $8 transient, $9 error, $10 most request ids,
-- $11 seconds since the last success that was not written, or null.
-- A transient failure goes on with the failures in a row, or begins them; any other ends them, for it is an answer.
insert into call_health as h (connection_id, customer_id, system, host, last_success_at, last_failure_at, failing_since, failures, operations, request_ids, last_error)
select c.connection_id, $2, $3, $4, now() - in_seconds($11), now() - in_seconds($5),
       case when $8 then now() - in_seconds($5) end, case when $8 then 1 else 0 end, array[$6::text], array_remove(array[$7::text], null), $9
from connection c where c.connection_id = $1
on conflict (connection_id) do update
    set customer_id = excluded.customer_id, system = excluded.system, host = excluded.host,
        last_success_at = greatest(h.last_success_at, excluded.last_success_at),
        last_failure_at = greatest(h.last_failure_at, excluded.last_failure_at),
        failing_since = case when $8 then least(h.failing_since, excluded.failing_since) end,
        failures = case when $8 then h.failures + 1 else 0 end,
        operations = case
            when h.failing_since is null then excluded.operations
            when h.operations @> excluded.operations then h.operations
            else h.operations || excluded.operations end,
        request_ids = case
            when h.failing_since is null then excluded.request_ids
            else (h.request_ids || excluded.request_ids)[greatest(1, cardinality(h.request_ids || excluded.request_ids) - $10 + 1):] end,
        last_error = excluded.last_error
