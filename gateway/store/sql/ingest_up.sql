-- $1 client id. For how many seconds its session at each broker was not up; none where it never was.
select broker, extract(epoch from now() - up_at)::double precision as seconds from ingest_up where client_id = $1
