-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 low, $7 high, $8 cursor of the next page (null: this was the last), $9 records in the page,
-- $10 total (null: unknown), $11 created, $12 modified, $13 deleted, $14 revived, $15 position before the page, $16 whether the walk begins with this page,
-- $17 what is done when it was the last: 'high', 'open', 'walk', $18 when the system was asked what time it is, for $7, by our clock. False when the lease was lost. The last step of what applies a page.
with stepped as (
    update inbound_stream s
    set walk_low = case when $8::text is not null then $6::timestamptz end, walk_high = case when $8 is not null then $7::timestamptz end, walk_cursor = $8,
        walk_at = case when $8 is not null then now() end,
        walk_asked_at = $18,
        walk_pages = case when $16 then 1 else s.walk_pages + 1 end,
        walk_records = case when $16 then $9 else s.walk_records + $9 end,
        walk_total = coalesce($10, case when not $16 then s.walk_total end),
        read_records = s.read_records + $9, began_at = coalesce(s.began_at, now()),
        high = case when $8 is null and $17 = 'high' then case when s.phase = 'initial' then $6 else $7 end else s.high end,
        asked_at = case when $8 is null and $17 = 'high' and s.phase = 'incremental' then $18 else s.asked_at end,
        open_done = s.open_done or ($8 is null and $17 = 'open'),
        created = s.created + $11, modified = s.modified + $12, deleted = s.deleted + $13,
        told_position = case when $11 + $12 + $13 > 0 then coalesce(s.told_position, $15) else s.told_position end
    where (s.customer_id, s.connection_id, s.stream, s.phase, s.fence) = ($1, $2, $3, $4, $5)
    returning true
), counted as (
    -- the record log is locked by whoever changes these, so no two wait for each other here
    insert into inbound_count as c (customer_id, connection_id, stream, held, alive)
    select $1, $2, $3, $11, $11 - $13 + $14 where $11 + $13 + $14 > 0
    on conflict (customer_id, connection_id, stream) do update set held = c.held + excluded.held, alive = c.alive + excluded.alive
)
select exists (select from stepped)
