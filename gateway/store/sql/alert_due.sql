-- $1 connection, $2 how many. Alerts for which the system is to be called, oldest first.
select * from alert where connection_id = $1 and due_at <= now() order by due_at, opened_at limit $2
