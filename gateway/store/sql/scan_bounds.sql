-- $1 customer, $2 watermark, $3 rows in a slice.
-- horizon: every transaction below it has ended, so nothing can still appear behind it.
-- boundary: the revision of the first row past the slice, null when the slice reaches the horizon.
-- first: the revision of the first row, to take a revision whole when it alone exceeds a slice.
with horizon as materialized (select pg_snapshot_xmin(pg_current_snapshot()) as at)
select horizon.at::text::bigint as horizon,
       (select t.revision::text::bigint from telemetry t
        where t.customer_id = $1 and t.revision >= $2::text::xid8 and t.revision < horizon.at
        order by t.revision limit 1) as first,
       (select t.revision::text::bigint from telemetry t
        where t.customer_id = $1 and t.revision >= $2::text::xid8 and t.revision < horizon.at
        order by t.revision offset $3 limit 1) as boundary
from horizon
