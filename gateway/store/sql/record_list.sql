-- $1 customer, $2 connection, $3 stream, $4 key after which, $5 what the key or the body holds (null: anything), $6 limit. By key, for people.
select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference
from record r
where r.customer_id = $1 and r.connection_id = $2 and r.stream = $3 and r.key > $4 and ($5::text is null or r.key ilike $5 or r.body::text ilike $5)
order by r.key
limit $6
