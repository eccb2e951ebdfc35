-- $1 parent table, $2 the day before which rows are past their retention. Partitions that are wholly older, oldest first.
select c.relname as name, to_date(right(c.relname, 8), 'YYYYMMDD') as day
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = $1::text::regclass and to_date(right(c.relname, 8), 'YYYYMMDD') < $2
order by day
