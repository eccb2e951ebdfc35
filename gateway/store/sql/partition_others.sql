-- $1 the day of a telemetry partition, $2 customers whose connections still want it. The others that have samples there.
select customer_id from customer c
where customer_id <> all($2) and exists (
    select from telemetry t
    where t.customer_id = c.customer_id and t.ts >= $1::date::timestamptz and t.ts < ($1::date + 1)::timestamptz
)
order by customer_id
