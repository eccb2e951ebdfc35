-- As device_list: $1 customer or null for all, $2 what id or title hold, $3 and $4 customer and device after which to go on, $5 limit. Of the silent ones alone, by
-- an index that holds no others.
select d.customer_id, d.device_id, d.title, d.source, d.first_seen_at, s.last_seen_at, s.last_sample_at, s.interval_seconds, s.silent_since,
       (select count(*) from jsonb_object_keys(s.metrics)) as metrics,
       (select p.offline_since from sparkplug_device p where p.customer_id = d.customer_id and p.device_id = d.device_id limit 1) as offline_since
from device_state s
join device d on d.customer_id = s.customer_id and d.device_id = s.device_id
where s.silent_since is not null
  and s.customer_id >= coalesce($1::text, $3::text) and ($1::text is null or s.customer_id = $1)
  and (s.customer_id, s.device_id) > ($3::text, $4::text)
  and ($2::text is null or strpos(d.words, $2) > 0)
order by s.customer_id, s.device_id
limit $5
