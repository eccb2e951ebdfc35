-- $1 scopes, $2 keys, one array a column, $3 caller. Breakers whose trial by this caller is under way, with the trials that failed before, locked in one order.
select b.scope, b.key, b.trials
from breaker b join unnest($1::text[], $2::text[]) as asked (scope, key) on b.scope = asked.scope and b.key = asked.key
where b.caller = $3
order by b.scope, b.key
for update of b
