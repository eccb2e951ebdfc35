-- $1 reason or null, $2 source or null ('': of none), $3 part of the topic or null, $4 the id before which to go on, $5 limit, $6 bytes of the payload that
-- are shown. Messages that are dead letters, the newest first.
select dead_letter_id, customer_id, source, topic, reason, detail, occurrences, first_at, last_at, octet_length(payload) as bytes, substring(payload from 1 for $6) as head,
       is_retained
from dead_letter
where kind = 'message' and dead_letter_id < $4 and ($1::text is null or reason = $1) and ($2::text is null or coalesce(source, '') = $2)
  and ($3::text is null or position($3 in topic) > 0)
order by dead_letter_id desc
limit $5
