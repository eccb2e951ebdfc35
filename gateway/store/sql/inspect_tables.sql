-- $1 rows. Tables of this database with more dead rows than that, the worst first.
select relname::text as name, n_live_tup as live, n_dead_tup as dead, greatest(last_autovacuum, last_vacuum) as vacuumed_at
from pg_stat_user_tables
where n_dead_tup > $1
order by n_dead_tup desc
limit 20
