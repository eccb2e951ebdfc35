-- $1 customers. Their logs are there, and locked until the commit, in the order in which every writer locks them.
insert into customer_log as held (customer_id, position)
select customer_id, 0 from (select distinct unnest($1::text[]) as customer_id) c order by customer_id collate "C"
on conflict (customer_id) do update set position = held.position
