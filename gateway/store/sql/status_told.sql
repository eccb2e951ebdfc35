-- $1 connections. Those that are disconnected, and whose last document was published and removed.
select p.connection_id from published_status p join connection c using (connection_id)
where p.connection_id = any($1) and p.ended_at is not null and c.state = 'disconnected'
