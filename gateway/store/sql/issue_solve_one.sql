-- $1 connection, $2 code. Nothing is left to do for a person about this. Whether it was open.
update issue set solved_at = now() where connection_id = $1 and solved_at is null and code = $2 returning true
