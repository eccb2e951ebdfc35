-- $1 customer, $2 position, $3 ours: changed at or after this (null: whenever), $4 limit, $5 bytes of bodies with which a page ends. The next records after
-- the position; `total`: bytes of bodies so far. One snapshot: whatever its position covers is committed and complete.
with start as materialized (
    select case when $3::timestamptz is null then $2::bigint
                else greatest($2, coalesce((select f.revision - 1 from record f where f.customer_id = $1 and f.modified_at >= $3 order by f.modified_at, f.revision limit 1),
                                           (select l.position from record_log l where l.customer_id = $1))) end as position
)
select connection_id, stream, key, version, revision, body, modified_at, source_modified_at, deleted, truncated, progress, reference, total
from (
    select p.*, sum(octet_length(p.body)) over (order by p.revision rows unbounded preceding) as total
    from (
        select r.connection_id, r.stream, r.key, r.version, r.revision, r.body::text as body, r.modified_at, r.source_modified_at, r.deleted, r.truncated, r.progress, r.reference
        from record r join connection c using (connection_id)
        where r.customer_id = $1 and r.revision > (select position from start) and c.state not in ('disconnecting', 'disconnected')
        order by r.revision
        limit $4
    ) p
) counted
where total - octet_length(body) < $5
order by revision
