-- $1 connections, $2 topics, $3 versions.
insert into published_status (connection_id, topic, version)
select connection_id, topic, version from unnest($1::text[], $2::text[], $3::bigint[]) as given (connection_id, topic, version)
order by connection_id
on conflict (connection_id) do update set topic = excluded.topic, version = excluded.version
