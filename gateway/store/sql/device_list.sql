-- $1 customer or null for all, $2 what id or title hold (in small letters; null: anything), $3 and $4 customer and device after which to go on, $5 limit, $6 whether
-- silent ones are left out.
-- $3 is $1 where that is given, so that the list begins with its customer.
select d.customer_id, d.device_id, d.title, d.source, d.first_seen_at, s.last_seen_at, s.last_sample_at, s.interval_seconds, s.silent_since,
       (select count(*) from jsonb_object_keys(s.metrics)) as metrics,
       (select p.offline_since from sparkplug_device p where p.customer_id = d.customer_id and p.device_id = d.device_id limit 1) as offline_since
from device d
left join device_state s on s.customer_id = d.customer_id and s.device_id = d.device_id
where d.customer_id >= coalesce($1::text, $3::text) and d.customer_id <= coalesce($1::text, (select max(customer_id) from customer))
  and (d.customer_id, d.device_id) > ($3::text, $4::text)
  and ($2::text is null or strpos(d.words, $2) > 0)
  and (not $6::bool or s.silent_since is null)
order by d.customer_id, d.device_id
limit $5
