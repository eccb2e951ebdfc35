-- $1 connection, $2 customer, $3 system, $4 host, $5 operation, $6 seconds ago, $7 request id or null, $8 transient, $9 error, $10 most request ids,
-- $11 seconds since the operation's last success that was not written, or null, $12 whether a web page answered, $13 whether it was denied.
-- A transient failure goes on with the failures in a row, or begins them; any other ends them, for it is an answer.
-- For how many seconds there were nothing but failures, nothing but web pages, and denials in a row.
insert into call_health as h (connection_id, customer_id, system, host, operation, last_success_at, last_failure_at, failing_since, failures, request_ids, last_error,
                              suspect_since, denied_since)
select c.connection_id, $2, $3, $4, $5, now() - in_seconds($11), now() - in_seconds($6),
       case when $8 then now() - in_seconds($6) end, case when $8 then 1 else 0 end, array_remove(array[$7::text], null), $9,
       case when $12 then now() end, case when $13 then now() end
from connection c where c.connection_id = $1
on conflict (connection_id, operation) do update
    set customer_id = excluded.customer_id, system = excluded.system, host = excluded.host,
        last_success_at = greatest(h.last_success_at, excluded.last_success_at),
        last_failure_at = greatest(h.last_failure_at, excluded.last_failure_at),
        failing_since = case when $8 then least(h.failing_since, excluded.failing_since) end,
        failures = case when $8 then h.failures + 1 else 0 end,
        request_ids = case
            when h.failing_since is null then excluded.request_ids
            else (h.request_ids || excluded.request_ids)[greatest(1, cardinality(h.request_ids || excluded.request_ids) - $10 + 1):] end,
        last_error = excluded.last_error,
        suspect_since = case when $12 then coalesce(h.suspect_since, excluded.suspect_since) end,
        denied_since = case when $13 then coalesce(h.denied_since, excluded.denied_since) end
returning coalesce(extract(epoch from now() - failing_since), 0)::float8 as failing, coalesce(extract(epoch from now() - suspect_since), 0)::float8 as suspect,
          coalesce(extract(epoch from now() - denied_since), 0)::float8 as denied
