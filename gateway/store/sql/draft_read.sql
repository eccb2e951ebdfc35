-- $1 hash, $2 owner. Of another's there is none.
select customer_id, sealed from connect_draft where hash = $1 and owner = $2 and expires_at > now()
