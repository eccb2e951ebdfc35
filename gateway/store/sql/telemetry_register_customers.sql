-- $1 customers.
insert into customer (customer_id) select distinct unnest($1::text[]) on conflict do nothing
