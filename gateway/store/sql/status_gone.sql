-- Retained topics of connections that are gone.
select p.connection_id, p.topic from published_status p left join connection c using (connection_id) where c.connection_id is null
