-- $1 session's id, $2 customer that it must be of, or null. No row where there is none.
delete from dashboard_session where encode(substring(hash from 1 for 6), 'hex') = $1 and ($2::text is null or customer_id = $2) returning name
