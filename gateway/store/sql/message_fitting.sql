-- $1 customer or null for all, $2 reason or null, $3 source or null ('': of none), $4 part of the topic or null, $5 the last id. How many there are.
select count(*) from dead_letter
where kind = 'message' and dead_letter_id <= $5 and ($1::text is null or customer_id = $1) and ($2::text is null or reason = $2)
  and ($3::text is null or coalesce(source, '') = $3) and ($4::text is null or position($4 in topic) > 0)
