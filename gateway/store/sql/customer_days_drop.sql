-- $1 a day of telemetry that is dropped. In the order in which those who write samples take a customer.
with places as materialized (
    select d.customer_id from customer_day d where d.day = $1 order by d.customer_id collate "C" for update
)
delete from customer_day d using places where d.customer_id = places.customer_id and d.day = $1
