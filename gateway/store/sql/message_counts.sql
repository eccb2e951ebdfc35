-- $1 how many are counted, the newest ones. Messages that are dead letters, by source and reason; `newest`: of all that are counted.
select source, reason, count(*) as messages, sum(occurrences)::bigint as occurrences, max(last_at) as last_at, max(dead_letter_id) as newest
from (
    select dead_letter_id, source, reason, occurrences, last_at from dead_letter
    where kind = 'message'
    order by dead_letter_id desc
    limit $1
) d
group by source, reason
order by count(*) desc, source nulls first, reason
