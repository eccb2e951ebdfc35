-- $1 customers, $2 devices, $3 how many devices a customer may have. The new ones are registered as far as there is room; returns those that are not.
with wanted as (
    select * from unnest($1::text[], $2::text[]) as given (customer_id, device_id)
), fresh as (
    select customer_id, device_id, row_number() over (partition by customer_id order by device_id) as place
    from wanted w
    where not exists (select from device d where d.customer_id = w.customer_id and d.device_id = w.device_id)
), held as (
    select customer_id, (select count(*) from device d where d.customer_id = c.customer_id) as devices
    from (select distinct customer_id from fresh) c
), added as (
    insert into device (customer_id, device_id)
    select customer_id, device_id from fresh join held using (customer_id) where devices + place <= $3
    order by customer_id, device_id
    on conflict do nothing
)
select customer_id, device_id from fresh join held using (customer_id) where devices + place > $3
