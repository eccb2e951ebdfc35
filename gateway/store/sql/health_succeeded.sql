-- $1 connection, $2 customer, $3 system, $4 host, $5 operation, $6 seconds ago, $7 the other operations that it proves.
-- A connection that is gone has no health.
with proved as (
    update call_health set failing_since = null, failures = 0, suspect_since = null, denied_since = null
    where connection_id = $1 and operation = any($7)
)
insert into call_health as h (connection_id, customer_id, system, host, operation, last_success_at)
select c.connection_id, $2, $3, $4, $5, now() - in_seconds($6) from connection c where c.connection_id = $1
on conflict (connection_id, operation) do update
    set customer_id = excluded.customer_id, system = excluded.system, host = excluded.host,
        last_success_at = greatest(h.last_success_at, excluded.last_success_at), failing_since = null, failures = 0, suspect_since = null, denied_since = null
