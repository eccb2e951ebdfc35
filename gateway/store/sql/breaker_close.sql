-- $1 scopes, $2 keys, one array a column, $3 operations. Those that were open and held back nothing else.
delete from breaker b using unnest($1::text[], $2::text[]) as asked (scope, key)
where b.scope = asked.scope and b.key = asked.key and b.operation = any($3)
returning b.scope, b.key
