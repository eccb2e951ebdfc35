-- $1 customer or null for all, $2 reason or null, $3 source or null ('': of none), $4 part of the topic or null, $5 the id after which to go on, $6 the last one,
-- $7 limit. The oldest first: of two of one instant the later one counts.
select dead_letter_id from dead_letter
where kind = 'message' and dead_letter_id > $5 and dead_letter_id <= $6 and ($1::text is null or customer_id = $1) and ($2::text is null or reason = $2)
  and ($3::text is null or coalesce(source, '') = $3) and ($4::text is null or position($4 in topic) > 0)
order by dead_letter_id
limit $7
