-- $1 reason or null, $2 source or null ('': of none), $3 part of the topic or null, $4 the id after which to go on, $5 the last one, $6 limit, $7 customer. As
-- message_ids, of this one. It is bounded by a pair, and not by equality, so that only its own index has the order.
select dead_letter_id from dead_letter
where kind = 'message' and (customer_id, dead_letter_id) > ($7, $4) and (customer_id, dead_letter_id) <= ($7, $5) and ($1::text is null or reason = $1)
  and ($2::text is null or coalesce(source, '') = $2) and ($3::text is null or position($3 in topic) > 0)
order by customer_id, dead_letter_id
limit $6
