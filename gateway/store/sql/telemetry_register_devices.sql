-- $1 customers, $2 devices, $3 how many devices the customer of each may have. The new ones are registered as far as there is room; returns those that are not.
-- They take the next position of their customer's log, which the transaction has locked.
with wanted as (
    select * from unnest($1::text[], $2::text[], $3::int[]) as given (customer_id, device_id, most)
), fresh as (
    select customer_id, device_id, most, row_number() over (partition by customer_id order by device_id) as place
    from wanted
    where not exists (select from device where device.customer_id = wanted.customer_id and device.device_id = wanted.device_id)
), held as (
    select theirs.customer_id, log.position, (select count(*) from device where device.customer_id = theirs.customer_id) as devices
    from (select distinct customer_id from fresh) theirs
    cross join lateral (select position from customer_log where customer_id = theirs.customer_id limit 1) log
), added as (
    insert into device (customer_id, device_id, revision)
    select customer_id, device_id, position + 1 from fresh join held using (customer_id) where devices + place <= most
    order by customer_id, device_id
    on conflict do nothing
    returning customer_id
), moved as (
    update customer_log set position = customer_log.position + 1
    from (select distinct customer_id from added) theirs
    where customer_log.customer_id = theirs.customer_id
)
select customer_id, device_id from fresh join held using (customer_id) where devices + place > most
