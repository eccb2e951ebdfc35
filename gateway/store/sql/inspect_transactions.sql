-- $1 and $2 seconds. What holds back the server: transactions that are open for longer than $1, statements that wait for a lock for longer than $2, and
-- prepared transactions, whatever their age. Of other roles' sessions only who may read all statistics sees something.
select 'open' as what, pid::text as name, coalesce(usename::text, '') as owner, application_name as detail, extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid() and xact_start < clock_timestamp() - in_seconds($1)
  and wait_event_type is distinct from 'Lock'
union all
select 'waiting', pid::text, coalesce(usename::text, ''), array_to_string(pg_blocking_pids(pid), ', '), extract(epoch from clock_timestamp() - query_start)::float8
from pg_stat_activity
where backend_type = 'client backend' and wait_event_type = 'Lock' and query_start < clock_timestamp() - in_seconds($2)
union all
select 'prepared', gid, owner::text, database::text, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts
order by 1, 5 desc
limit 100
