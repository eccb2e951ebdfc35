-- $1 from, $2 until. The days of the history that have a partition, each with about how many samples it holds, all customers together:
-- by its size, which is there at once, while what was analysed is not.
select to_date(right(c.relname, 8), 'YYYYMMDD') as day, (pg_relation_size(c.oid) / 150)::bigint as samples
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'telemetry'::regclass and right(c.relname, 8) between to_char($1::timestamptz, 'YYYYMMDD') and to_char($2::timestamptz, 'YYYYMMDD')
order by 1
