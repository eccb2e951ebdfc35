with term as materialized (
    select true from lease where (name, owner, fence) = ($11::text, $12::text, $13::bigint) for key share
), heads as materialized (
    select customer_log.customer_id, customer_log.position + 1 as revision
    from customer_log
    where customer_log.customer_id = any($6::text[]) and not customer_log.is_frozen and ($11::text is null or exists (select from term))
    order by customer_log.customer_id collate "C"
    for update of customer_log
), log as materialized (
    select array_agg(revision order by customer_id collate "C") as revisions, count(*) = cardinality($6::text[]) as known from heads
), sample as (
    select customer_id, device_id, timestamptz 'epoch' + ts * interval '1 microsecond' as ts, metrics::jsonb as metrics,
           timestamptz 'epoch' + received * interval '1 microsecond' as received_at, (select revisions from log)[place] as revision
    from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $7::int[]) as given (customer_id, device_id, ts, metrics, received, place)
    where (select known from log)
), days as (
    insert into customer_day as held (customer_id, day, reaches)
    select given.customer_id, given.day, (log.revisions[given.place] / 1000 + 1) * 1000
    from log
    cross join unnest($8::text[], $9::date[], $10::int[]) as given (customer_id, day, place)
    where log.known and not exists (
        select from customer_day where customer_day.customer_id = given.customer_id and customer_day.day = given.day and customer_day.reaches >= log.revisions[given.place]
    )
    on conflict (customer_id, day) do update set reaches = greatest(held.reaches, excluded.reaches)
),
