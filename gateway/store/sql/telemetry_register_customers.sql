-- $1 customers. In one order, as all writers make them: whoever makes one makes the others wait until its commit.
insert into customer (customer_id) select distinct unnest($1::text[]) as name order by name on conflict do nothing
