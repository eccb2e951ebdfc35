-- $1 customer, $2 connection, $3 stream, $4 position when the walk began. What the walk has not seen: for the first time, again, and as a person confirmed.
-- What has changed since the walk began may have come after its page was read.
select count(*) filter (where r.unseen = 0 and s.key is null) as missing,
       count(*) filter (where r.unseen in (1, 2) and s.key is null) as again,
       count(*) filter (where r.unseen = 3 and s.key is null) as confirmed,
       count(*) filter (where r.unseen > 0 and s.key is not null) as found
from record r
left join record_seen s on (s.customer_id, s.connection_id, s.stream, s.key) = ($1, $2, $3, r.key)
where (r.customer_id, r.connection_id, r.stream) = ($1, $2, $3) and not r.deleted and r.revision <= $4 and (s.key is null or r.unseen > 0)
