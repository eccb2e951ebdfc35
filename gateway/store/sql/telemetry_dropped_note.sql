-- $1 customers, null for all, $2 a day of which their samples are dropped. In the order in which those who write samples take a customer.
insert into telemetry_dropped as known (customer_id, until)
select customer_id, ($2::date + 1)::timestamptz from customer where ($1::text[] is null or customer_id = any($1)) order by customer_id collate "C"
on conflict (customer_id) do update set until = greatest(known.until, excluded.until)
