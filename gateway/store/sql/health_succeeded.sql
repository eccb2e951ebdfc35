-- $1 connection, $2 customer, $3 system, $4 host, $5 seconds ago. A connection that is gone has no health.
insert into call_health as h (connection_id, customer_id, system, host, last_success_at)
select c.connection_id, $2, $3, $4, now() - in_seconds($5) from connection c where c.connection_id = $1
on conflict (connection_id) do update
    set customer_id = excluded.customer_id, system = excluded.system, host = excluded.host,
        last_success_at = greatest(h.last_success_at, excluded.last_success_at), failing_since = null, failures = 0
