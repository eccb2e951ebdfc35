-- $1 connections, $2 customers, $3 systems, $4 hosts, one array a column, $5 operation. Its successes of just now, of connections that nothing failed of.
insert into call_health as h (connection_id, customer_id, system, host, operation, last_success_at)
select c.connection_id, given.customer_id, given.system, given.host, $5, now()
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as given (connection_id, customer_id, system, host)
join connection c using (connection_id)
on conflict (connection_id, operation) do update
    set customer_id = excluded.customer_id, system = excluded.system, host = excluded.host,
        last_success_at = greatest(h.last_success_at, excluded.last_success_at), failing_since = null, failures = 0, suspect_since = null, denied_since = null
