-- $1 topics of issues, $2 whose they are. In one order, as everybody takes them.
insert into retained_issue (topic, connection_id)
select topic, connection_id from unnest($1::text[], $2::text[]) as given (topic, connection_id)
order by topic
on conflict (topic) do update set emptied_at = null, connection_id = excluded.connection_id
