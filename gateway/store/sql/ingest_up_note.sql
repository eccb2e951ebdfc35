-- $1 client ids, $2 the broker of each: their sessions are up, now.
insert into ingest_up (client_id, broker, up_at) select client_id, broker, now() from unnest($1::text[], $2::text[]) as c (client_id, broker) order by client_id, broker
on conflict (client_id, broker) do update set up_at = now()
