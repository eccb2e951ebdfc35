-- $1 customer or null for all, $2 reason or null, $3 source or null ('': of none), $4 part of the topic or null, $5 the last id, $6 how many there are. Lets go of
-- them if there are as many; how many there are. One that is counted again meanwhile goes all the same. Found in the order of the index that begins with the
-- customer, so that it is used; locked in the order of all writers, so that no commit meets it in a circle.
with found as materialized (
    select dead_letter_id from dead_letter
    where kind = 'message' and dead_letter_id <= $5 and ($1::text is null or customer_id >= $1 and (customer_id, dead_letter_id) <= ($1, $5))
      and ($2::text is null or reason = $2) and ($3::text is null or coalesce(source, '') = $3) and ($4::text is null or position($4 in topic) > 0)
    order by customer_id, dead_letter_id
), held as materialized (
    select dead_letter_id from dead_letter where dead_letter_id in (select dead_letter_id from found)
    order by digest
    for update
), gone as (
    delete from dead_letter where dead_letter_id in (select dead_letter_id from held) and (select count(*) from held) = $6
)
select count(*) from held
