-- $1 customer, $2 what device, title or metric hold (in small letters; null: anything), $3 limit. Each metric with its last value.
select d.device_id, d.title, m.key as metric, m.value as entry
from device d
join device_state s on s.customer_id = d.customer_id and s.device_id = d.device_id
cross join lateral jsonb_each(s.metrics) m
where d.customer_id = $1 and ($2::text is null or strpos(d.words, $2) > 0 or strpos(lower(m.key), $2) > 0)
order by d.device_id, m.key
limit $3
