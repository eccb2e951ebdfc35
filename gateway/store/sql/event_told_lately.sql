-- $1 type, $2 customer (null: the gateway), $3 since when. Whether such an event was told.
select exists (select from event where type = $1 and customer_id is not distinct from $2 and at > $3)
