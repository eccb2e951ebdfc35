-- $1 partitions.
select partition, until_at, unheard from heard where partitions = $1
