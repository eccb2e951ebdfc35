-- $1 event id.
select at from event where event_id = $1
