-- $1 limit. Customers that have connections, by steps in the index: it costs what is found, however many connections each has.
with recursive found as (
    (select customer_id, 1 as place from connection order by customer_id limit 1)
    union all
    select later.customer_id, found.place + 1
    from found
    cross join lateral (select connection.customer_id from connection where connection.customer_id > found.customer_id order by connection.customer_id limit 1) later
    where found.place < $1
)
select customer_id from found
