-- $1 client id. For how many seconds its session was not up; null where it never was.
select extract(epoch from now() - heard_at)::double precision from ingest_heard where client_id = $1
