-- $1 connection, $2 meters whose rule has changed. What was computed by the old one removes no mark any more.
update due_window set mark = default where connection_id = $1 and meter = any($2)
