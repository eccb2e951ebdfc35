-- $1 customer, $2 position, $3 ours: changed at or after this (null: whenever), $4 limit, $5 connection, $6 stream, null for all.
-- As record_page, of these streams only: each is found by its own index.
select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference
from (
    select n.connection_id, n.stream from inbound_count n join connection c using (connection_id)
    where n.customer_id = $1 and n.connection_id = coalesce($5, n.connection_id) and n.stream = coalesce($6, n.stream) and c.state not in ('disconnecting', 'disconnected')
) own
cross join lateral (
    select * from record r
    where (r.customer_id, r.connection_id, r.stream) = ($1, own.connection_id, own.stream)
      and r.revision > greatest($2::bigint, case when $3::timestamptz is null then 0
          else coalesce((select f.revision - 1 from record f where f.customer_id = $1 and f.modified_at >= $3 order by f.modified_at, f.revision limit 1), 9223372036854775807) end)
    order by r.revision
    limit $4
) r
order by r.revision
limit $4
