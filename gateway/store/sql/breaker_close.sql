-- $1 scopes, $2 keys, one array a column. Those that were open.
delete from breaker b using unnest($1::text[], $2::text[]) as asked (scope, key) where b.scope = asked.scope and b.key = asked.key returning b.scope, b.key
