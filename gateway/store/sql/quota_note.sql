-- $1 customers ('': nobody's), $2 quotas, $3 what is allowed, $4 devices or null, $5 dead letters, $6 dropped messages, $7 their bytes, $8 seconds in which
-- reading stood. What came over a quota is added to the time in which it does, or begins one: then `opened`. In one order, as all writers lock them.
-- Nothing is noted of a customer that has moved to another gateway.
insert into quota_excess as held (customer_id, quota, allowed, device_id, dead_letters, dropped, dropped_bytes, slowed_seconds)
select * from unnest($1::text[], $2::text[], $3::double precision[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::double precision[])
    as g (customer_id, quota, allowed, device_id, dead_letters, dropped, dropped_bytes, slowed_seconds)
where not exists (select from customer_log l where l.customer_id = g.customer_id and l.is_frozen)
order by g.customer_id collate "C", g.quota collate "C"
on conflict (customer_id, quota) do update set
    allowed = excluded.allowed,
    device_id = coalesce(excluded.device_id, held.device_id),
    since = case when held.ended_at is null then held.since else now() end,
    dead_letters = excluded.dead_letters + case when held.ended_at is null then held.dead_letters else 0 end,
    dropped = excluded.dropped + case when held.ended_at is null then held.dropped else 0 end,
    dropped_bytes = excluded.dropped_bytes + case when held.ended_at is null then held.dropped_bytes else 0 end,
    slowed_seconds = excluded.slowed_seconds + case when held.ended_at is null then held.slowed_seconds else 0 end,
    last_at = now(), ended_at = null
returning customer_id, quota, allowed, device_id, since = now() as opened
