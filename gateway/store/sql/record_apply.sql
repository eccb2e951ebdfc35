-- $1 customer, $2 connection, $3 stream, $4 keys, $5 bodies, $6 hashes, $7 the system's times, $8 deleted, $9 truncated, $10 progress, $11 references, one array
-- a column, each key once; $12 position of the log, which is locked, $13 time of the change, $14 room for new records, $15 the position when the page was
-- asked for (null: the page has the last word), $16 whether the keys are remembered as seen,
-- $17 how far the system's clock is ahead of ours, $18 up to when everything was read by its present time (null: no matter). A time that lay in the future when it
-- was stored, or that could not be read yet, was told by a clock that was set back since: nothing is older than that.
-- Nothing changes where the hash is equal. A tombstone of what we never had is nothing.
with asked as materialized (
    select a.*, r.key is not null as known, r.body as known_body, r.hash as known_hash, r.deleted as known_deleted
    from unnest($4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::boolean[], $9::boolean[], $10::text[], $11::text[])
         with ordinality as a (key, body, hash, source_modified_at, deleted, truncated, progress, reference, place)
    -- The first key from this one on, which only the primary key can tell: a plan of `=` that was made while the table was small reads all records of
    -- the stream, or of the customer, for each part of a page.
    left join lateral (
        select * from record r where (r.customer_id, r.connection_id, r.stream) = ($1, $2, $3) and r.key >= a.key order by r.key limit 1
    ) r on r.key = a.key
    where r.key is null and not a.deleted
       or (r.hash <> a.hash and not (a.deleted and r.deleted) or r.deleted <> a.deleted)
          and (r.source_modified_at is null or a.source_modified_at is null or a.source_modified_at >= r.source_modified_at or r.source_modified_at > r.modified_at + $17::interval
               or r.source_modified_at >= $18::timestamptz)
          and ($15::bigint is null or r.revision <= $15 or a.source_modified_at > r.source_modified_at)
), ranked as materialized (
    select *, sum((not known)::int) over (order by place) as fresh from asked
), changed as materialized (
    select *, row_number() over (order by place) as step from ranked where known or fresh <= $14
), written as (
    insert into record as r (customer_id, connection_id, stream, key, revision, body, hash, modified_at, source_modified_at, deleted, truncated, progress, reference, changed_at)
    select $1, $2, $3, key, $12 + step, case when deleted then known_body else body::jsonb end, case when deleted then known_hash else hash end, $13,
           source_modified_at, deleted, truncated, progress, reference, array[$13::timestamptz]
    from changed
    on conflict (customer_id, connection_id, stream, key) do update
        set version = r.version + 1, revision = excluded.revision, body = excluded.body, hash = excluded.hash, modified_at = excluded.modified_at,
            source_modified_at = coalesce(excluded.source_modified_at, r.source_modified_at), deleted = excluded.deleted, truncated = excluded.truncated,
            progress = excluded.progress, reference = coalesce(excluded.reference, r.reference), unseen = 0,
            changed_at = (r.changed_at || excluded.changed_at)[greatest(1, cardinality(r.changed_at) - 48):]
    returning (xmax = 0) as fresh, deleted
), seen as (
    insert into record_seen (customer_id, connection_id, stream, key)
    select $1, $2, $3, key from unnest($4::text[], $8::boolean[]) as page (key, deleted) where $16 and not deleted
    on conflict do nothing
), log as (
    update record_log set position = position + (select count(*) from changed) where customer_id = $1 and exists (select from changed)
)
select count(*) filter (where w.fresh) as created,
       count(*) filter (where not w.fresh and not w.deleted) as modified,
       count(*) filter (where w.deleted) as deleted,
       (select count(*) from changed where known_deleted and not deleted) as revived,
       (select count(*) from ranked where not known and fresh > $14) as refused
from written w
