-- $1 how many are counted, the newest ones, $2 customer. As message_counts, of this one, by its own index.
select source, reason, count(*) as messages, sum(occurrences)::bigint as occurrences, max(last_at) as last_at, max(dead_letter_id) as newest
from (
    select dead_letter_id, source, reason, occurrences, last_at from dead_letter
    where kind = 'message' and customer_id >= $2 and (customer_id, dead_letter_id) < ($2, 9223372036854775807)
    order by customer_id desc, dead_letter_id desc
    limit $1
) d
group by source, reason
order by count(*) desc, source nulls first, reason
