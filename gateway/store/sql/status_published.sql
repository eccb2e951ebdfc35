-- $1 connection, $2 topic, $3 version.
insert into published_status (connection_id, topic, version) values ($1, $2, $3)
on conflict (connection_id) do update set topic = excluded.topic, version = excluded.version
