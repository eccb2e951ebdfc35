-- $1 connection, $2 ids, null for all. Readings that nobody is to deliver any more; how many went. Taken in one order, as deliveries take them.
with found as materialized (
    select dead_letter_id from dead_letter
    where connection_id = $1 and ($2::bigint[] is null or dead_letter_id = any($2))
    order by meter, window_start
    for update
), gone as (
    delete from dead_letter where dead_letter_id in (select dead_letter_id from found) returning 1
)
select count(*) from gone
