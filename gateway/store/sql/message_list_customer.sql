-- $1 reason or null, $2 source or null ('': of none), $3 part of the topic or null, $4 the id before which to go on, $5 limit, $6 bytes of the payload that
-- are shown, $7 customer. As message_list, of this one. It is bounded by a pair, and not by equality, so that only its own index has the order.
select dead_letter_id, customer_id, source, topic, reason, detail, occurrences, first_at, last_at, octet_length(payload) as bytes, substring(payload from 1 for $6) as head,
       is_retained
from dead_letter
where kind = 'message' and customer_id >= $7 and (customer_id, dead_letter_id) < ($7, $4) and ($1::text is null or reason = $1)
  and ($2::text is null or coalesce(source, '') = $2) and ($3::text is null or position($3 in topic) > 0)
order by customer_id desc, dead_letter_id desc
limit $5
