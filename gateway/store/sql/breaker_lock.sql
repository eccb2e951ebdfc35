-- $1 scopes, $2 keys, one array a column. Those of these breakers that are open, locked in one order.
select b.scope, b.key, extract(epoch from b.next_trial_at - clock_timestamp())::float8 as next_trial_seconds
from breaker b join unnest($1::text[], $2::text[]) as asked (scope, key) on b.scope = asked.scope and b.key = asked.key
order by b.scope, b.key
for update of b
