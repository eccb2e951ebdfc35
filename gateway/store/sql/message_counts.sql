-- $1 customer or null for all, $2 how many are counted, the newest ones. Messages that are dead letters, by source and reason; `newest`: of all that are counted.
select source, reason, count(*) as messages, sum(occurrences)::bigint as occurrences, max(last_at) as last_at, max(dead_letter_id) as newest
from (
    select dead_letter_id, source, reason, occurrences, last_at from dead_letter
    where kind = 'message' and ($1::text is null or customer_id = $1)
    order by dead_letter_id desc
    limit $2
) d
group by source, reason
order by count(*) desc, source nulls first, reason
