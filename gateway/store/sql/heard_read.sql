-- $1 partitions.
select partition, until_at, unheard, broke_at, resumed_at from heard where partitions = $1
