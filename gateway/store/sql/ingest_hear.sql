-- $1 client ids whose sessions are up.
insert into ingest_heard (client_id, heard_at) select client_id, now() from unnest($1::text[]) as c (client_id) order by client_id
on conflict (client_id) do update set heard_at = now()
