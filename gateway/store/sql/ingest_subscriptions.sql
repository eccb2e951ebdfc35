-- $1 client id.
select broker, filter from ingest_subscription where client_id = $1
