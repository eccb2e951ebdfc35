-- Dead letters held, by reason.
select part as reason, sum(number)::bigint as held
from (
    select part, number from kept_count where kind = 'dead_letter'
    union all
    select part, change from count_change where kind = 'dead_letter'
) counted
group by part
having sum(number) > 0
