-- $1 connections. Of those that are gone the topic that may still be retained.
select p.connection_id, p.topic from published_status p
where p.connection_id = any($1) and not exists (select from connection c where c.connection_id = p.connection_id)
