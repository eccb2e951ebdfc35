-- $1 client id.
select filter from ingest_subscription where client_id = $1
