-- $1 customers, or null for all. What their samples take, about.
select customer_id, sum(bytes)::bigint as bytes from customer_day where ($1::text[] is null or customer_id = any($1)) group by customer_id
