-- $1 customer, $2 position, $3 ours: changed at or after this (null: whenever), $4 limit, $5 bytes of bodies with which a page ends, $6 connection, $7 stream,
-- null for all. As record_page, of these streams only. A stream is bounded by a pair, and not by equality, so that no index but its own has the order: by the
-- customer's index all other streams would be read on the way, and what was counted of the table before a stream was there makes that look cheap.
select connection_id, stream, key, version, revision, body, modified_at, source_modified_at, deleted, truncated, progress, reference, total
from (
    select p.*, sum(octet_length(p.body)) over (order by p.revision rows unbounded preceding) as total
    from (
        select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference
        from (
            select n.connection_id, n.stream from inbound_count n join connection c using (connection_id)
            where n.customer_id = $1 and n.connection_id = coalesce($6, n.connection_id) and n.stream = coalesce($7, n.stream)
              and c.state not in ('disconnecting', 'disconnected')
        ) own
        cross join lateral (
            select * from record r
            where r.customer_id = $1 and r.connection_id = own.connection_id and r.stream <= own.stream
              and (r.stream, r.revision) > (own.stream, greatest($2::bigint, case when $3::timestamptz is null then 0
                  else coalesce((select f.revision - 1 from record f where f.customer_id = $1 and f.modified_at >= $3 order by f.modified_at, f.revision limit 1), 9223372036854775807) end))
            order by r.stream, r.revision
            limit $4
        ) r
        order by r.revision
        limit $4
    ) p
) counted
where total - octet_length(body) < $5
order by revision
