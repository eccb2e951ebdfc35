-- $1 connection ids. Everything that a status document shows, one row a connection. Each is found by index, and nothing is counted: one costs
-- the same among many, with however many windows.
select c.connection_id, c.title, c.customer_id, c.system, c.hosting, c.tier, c.state, case when c.state <> 'active' then c.reason end as reason, c.since, c.version, c.delivery, c.price, c.request_id, c.operation, nullif(c.probe_at, 'infinity') as probe_at,
       (select i.incident_id from incident i where i.closed_at is null and c.connection_id = any(i.connections)
        order by array_position(array['system', 'host', 'connection'], i.scope) limit 1) as incident,
       (select coalesce(jsonb_agg(jsonb_build_object('part', t.part, 'detail', t.detail, 'since', t.since) order by t.part), '[]')
        from connection_trouble t where t.connection_id = c.connection_id) as troubles,
       (select count(*) from alert a where a.connection_id = c.connection_id and a.state <> 'cleared') as open_alerts,
       (select count(*) from meter_made m where m.connection_id = c.connection_id and m.state <> 'made' and m.state = 'refused') as meters_refused,
       (select count(*) from meter_made m where m.connection_id = c.connection_id and m.state <> 'made' and m.state = 'wanted') as meters_waiting,
       flows.last_success_at, flows.next_run_at, coalesce(flows.streams, '[]') as streams, counts.pending, counts.dead_letters
from connection c
cross join lateral (
    select coalesce(sum(number) filter (where kind = 'window'), 0)::bigint as pending,
           coalesce(sum(number) filter (where kind = 'dead_letter'), 0)::bigint as dead_letters,
           coalesce(sum(number) filter (where kind = 'window' and part = 'initial'), 0)::bigint as initial,
           coalesce(sum(number) filter (where kind = 'window' and part = 'incremental'), 0)::bigint as incremental
    from (
        select kind, part, number from kept_count where connection_id = c.connection_id
        union all
        select kind, part, change from count_change where connection_id = c.connection_id
    ) counted
) counts
cross join lateral (
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
               'remaining_seconds', case when s.initial_walked > 0 then
                   extract(epoch from now() - s.initial_started_at) * (s.initial_total - s.initial_walked) / s.initial_walked end,
               'walked', case when s.initial_total > 0 then least(1, s.initial_walked::float8 / s.initial_total) when s.initial_until > s.initial_from then
                   greatest(0, least(1, extract(epoch from s.initial_cursor - s.initial_from) / extract(epoch from s.initial_until - s.initial_from))) end,
               'lag_seconds', coalesce(extract(epoch from now() - w.oldest), 0),
               'pending', w.pending
           ) order by s.name, s.phase) as streams
    from stream s
    cross join lateral (select case s.phase when 'initial' then counts.initial else counts.incremental end as pending) p
    cross join lateral (
        select p.pending,
               case when p.pending > 0 then (
                   select d.closes_at from due_window d
                   where d.connection_id = s.connection_id and d.phase = s.phase and d.closes_at <= now()
                   order by d.closes_at
                   limit 1
               ) end as oldest
    ) w
    where s.connection_id = c.connection_id
) flows
where c.connection_id = any($1::text[])
order by c.connection_id
