-- $1 table. The partitions of it; itself, where it has none.
select inhrelid::regclass::text as name from pg_inherits where inhparent = to_regclass($1)
union all
select $1 where not exists (select from pg_inherits where inhparent = to_regclass($1))
