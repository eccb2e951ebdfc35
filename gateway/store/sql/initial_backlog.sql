-- $1 connection, $2 enough. How many windows of the initial phase wait, counted up to `enough`.
select count(*) from (select from due_window where connection_id = $1 and phase = 'initial' and closes_at <= now() limit $2) waiting
