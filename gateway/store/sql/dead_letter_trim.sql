-- $1 bytes that a customer may hold, $2 the time before which none is kept. The oldest go first; how many went, by customer (null: nobody's).
with sized as (
    select dead_letter_id, last_at,
           sum(coalesce(pg_column_size(payload), 0) + coalesce(pg_column_size(topic), 0) + octet_length(detail) + 200) over (
               partition by customer_id order by last_at desc, dead_letter_id desc
           ) as bytes
    from dead_letter
), free as (
    -- one that is counted again just now is not waited for: whoever counts holds others already, which we may hold the next of
    select dead_letter.dead_letter_id, sized.bytes > $1 as for_room
    from dead_letter join sized using (dead_letter_id)
    where sized.bytes > $1 or sized.last_at < $2
    for update of dead_letter skip locked
), gone as (
    delete from dead_letter using free where dead_letter.dead_letter_id = free.dead_letter_id
    returning dead_letter.customer_id, free.for_room
)
select customer_id, count(*) as dropped from gone where for_room group by customer_id
