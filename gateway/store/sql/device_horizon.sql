-- The first revision that is not certain to be visible yet.
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
