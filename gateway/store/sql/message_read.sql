-- $1 id, $2 bytes of the payload that are wanted. A message that is a dead letter.
select dead_letter_id, customer_id, source, topic, reason, detail, occurrences, first_at, last_at, octet_length(payload) as bytes, substring(payload from 1 for $2) as head,
       is_retained
from dead_letter where kind = 'message' and dead_letter_id = $1
