-- $1 bytes that a customer may hold, $2 the time before which none is kept. The oldest go first; how many went, by customer (null: nobody's).
with sized as (
    select dead_letter_id, last_at,
           sum(coalesce(pg_column_size(payload), 0) + coalesce(pg_column_size(topic), 0) + octet_length(detail) + 200) over (
               partition by customer_id order by last_at desc, dead_letter_id desc
           ) as bytes
    from dead_letter
), free as (
    -- one that is counted again just now is not waited for: whoever counts holds others already, which we may hold the next of
    select d.dead_letter_id, s.bytes > $1 as for_room
    from dead_letter d join sized s using (dead_letter_id)
    where s.bytes > $1 or s.last_at < $2
    for update of d skip locked
), gone as (
    delete from dead_letter d using free f where d.dead_letter_id = f.dead_letter_id
    returning d.customer_id, f.for_room
)
select customer_id, count(*) as dropped from gone where for_room group by customer_id
