-- $1 connection, $2 a code that stays open (null: none).
update issue set solved_at = now() where connection_id = $1 and solved_at is null and code is distinct from $2
