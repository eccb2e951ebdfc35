-- $1 topics, $2 customers, $3 devices. In one order, as everybody takes them.
insert into retained_device as held (topic, customer_id, device_id)
select topic, customer_id, device_id from unnest($1::text[], $2::text[], $3::text[]) as given (topic, customer_id, device_id)
order by topic
on conflict (topic) do update set emptied_at = null where held.emptied_at is not null
