-- $1 parent table, $2 the day before which rows are past their retention. Partitions that are wholly older, oldest first.
-- The planner may look at the name of any relation before it knows whose child it is: only one that ends in a day is read as one.
select child.name, child.day
from pg_inherits i
join lateral (
    select c.relname as name, case when c.relname ~ '_[0-9]{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as day
    from pg_class c
    where c.oid = i.inhrelid
) child on true
where i.inhparent = $1::text::regclass and child.day < $2
order by child.day
