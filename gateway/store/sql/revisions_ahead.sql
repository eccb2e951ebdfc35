-- Whether revisions are ahead of this cluster's transactions: a logical dump of another cluster was restored here.
select exists (select from stream where watermark > pg_snapshot_xmax(pg_current_snapshot()))
    or exists (select from device where revision > pg_snapshot_xmax(pg_current_snapshot()))
    or exists (select from event where revision > pg_snapshot_xmax(pg_current_snapshot()))
