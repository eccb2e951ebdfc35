-- $1 connection ids, null for all. Everything that a status document shows, one row a connection. Each is found by index: one costs the same among many.
select c.connection_id, c.customer_id, c.system, c.hosting, c.tier, c.state, c.reason, c.since, c.version, c.delivery, c.price, c.request_id, c.operation, nullif(c.probe_at, 'infinity') as probe_at,
       (select i.incident_id from incident i where i.closed_at is null and c.connection_id = any(i.connections)
        order by array_position(array['system', 'host', 'connection'], i.scope) limit 1) as incident,
       (select coalesce(jsonb_agg(jsonb_build_object('part', t.part, 'detail', t.detail, 'since', t.since) order by t.part), '[]')
        from connection_trouble t where t.connection_id = c.connection_id) as troubles,
       (select count(*) from alert a where a.connection_id = c.connection_id and a.state <> 'cleared') as open_alerts,
       (select count(*) from meter_made m where m.connection_id = c.connection_id and m.state = 'refused') as meters_refused,
       (select count(*) from meter_made m where m.connection_id = c.connection_id and m.state = 'wanted') as meters_waiting,
       flows.last_success_at, flows.next_run_at, coalesce(flows.streams, '[]') as streams, flows.pending,
       (select count(*) from dead_letter d where d.connection_id = c.connection_id) as dead_letters
from connection c
cross join lateral (
    with windows as (
        select phase, count(*) as pending, min(closes_at) filter (where closes_at <= now()) as oldest
        from due_window where connection_id = c.connection_id
        group by phase
    )
    select max(s.last_success_at) as last_success_at,
           min(s.next_run_at) filter (where s.state <> 'done') as next_run_at,
           jsonb_agg(jsonb_build_object(
               'name', s.name,
               'phase', s.phase,
               'state', s.state,
               'attempts', s.attempts,
               'watermark', s.watermark::text,
               'initial_from', s.initial_from,
               'initial_cursor', s.initial_cursor,
               'initial_until', s.initial_until,
               'lost_until', s.lost_until,
               'clipped_to_days', extract(epoch from s.initial_clipped_to) / 86400,
               'walked', case when s.initial_until > s.initial_from then
                   greatest(0, least(1, extract(epoch from s.initial_cursor - s.initial_from) / extract(epoch from s.initial_until - s.initial_from))) end,
               'lag_seconds', coalesce(extract(epoch from now() - w.oldest), 0),
               'pending', coalesce(w.pending, 0)
           ) order by s.name, s.phase) as streams,
           (select coalesce(sum(pending), 0)::bigint from windows) as pending
    from stream s
    left join windows w on w.phase = s.phase
    where s.connection_id = c.connection_id
) flows
where c.connection_id = any(coalesce($1::text[], array(select connection_id from connection)))
order by c.connection_id
