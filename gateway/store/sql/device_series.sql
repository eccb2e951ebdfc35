-- $1 customer, $2 device, $3 metric, $4 from, $5 until (not included), $6 width of a bucket, $7 how many samples are read: the newest. True is 1 and false 0;
-- a text has no mean. Means are
-- made of exact numbers: doubles overflow in the squares that their mean is made with. `samples`: of the bucket.
with taken as materialized (
    select ts, metrics->$3 as value
    from telemetry
    where customer_id = $1 and device_id = $2 and ts >= $4 and ts < $5 and metrics ? $3
    order by ts desc
    limit $7
), numbers as (
    select date_bin($6::interval, ts, $4) as start, ts, value,
           case jsonb_typeof(value) when 'number' then value::numeric when 'boolean' then value::boolean::int end as number
    from taken
)
select start, count(*) as samples, min(number)::double precision as min, avg(number)::double precision as mean, max(number)::double precision as max,
       (array_agg(value order by ts desc))[1] as last
from numbers
group by start
order by start
