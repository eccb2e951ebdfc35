-- $1 customer or null for all, $2 reason or null, $3 source or null ('': of none), $4 part of the topic or null, $5 the last id. How many there are. Ordered, so
-- that the index that begins with the customer is used.
select count(*) from (
    select dead_letter_id from dead_letter
    where kind = 'message' and dead_letter_id <= $5 and ($1::text is null or customer_id >= $1 and (customer_id, dead_letter_id) <= ($1, $5))
      and ($2::text is null or reason = $2) and ($3::text is null or coalesce(source, '') = $3) and ($4::text is null or position($4 in topic) > 0)
    order by customer_id, dead_letter_id
) found
