-- $1 customers, $2 devices, $3 seconds. Metrics that did not come for so long, nor in ten intervals of the device, by the time of its samples, have vanished; and
-- those that had vanished and came since are there again.
with looked as materialized (
    select g.customer_id, g.device_id, s.metrics, coalesce(c.gone, '{}') as gone,
           extract(epoch from s.last_sample_at - greatest($3::float8, 10 * coalesce(s.interval_seconds, 0)) * interval '1 second') * 1000000 as before
    from unnest($1::text[], $2::text[]) as g (customer_id, device_id)
    cross join lateral (select * from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id limit 1) s
    left join lateral (select * from device_change c where c.customer_id = g.customer_id and c.device_id = g.device_id limit 1) c on true
), found as materialized (
    select l.*, coalesce((select array_agg(e.name order by e.name) from jsonb_each(l.metrics) as e (name, entry) where (e.entry->>0)::bigint < l.before), '{}') as names
    from looked l
), news as (
    select customer_id, device_id, names,
           (select jsonb_object_agg(name, case when is_gone then jsonb_build_array(kind, null) else jsonb_build_array(null, kind) end)
            from (
                select name, metric_kind(metrics->name->1) as kind, true as is_gone from unnest(names) as n (name) where name <> all (gone)
                union all
                select name, metric_kind(metrics->name->1), false from unnest(gone) as n (name) where name <> all (names) and metrics ? name
            ) one) as changes
    from found
    where names <> gone
)
insert into device_change as c (customer_id, device_id, changes, gone, due_at)
select customer_id, device_id, merge_metric_changes('{}', coalesce(changes, '{}')), names, now() from news order by customer_id, device_id
on conflict (customer_id, device_id) do update
    set changes = merge_metric_changes(c.changes, excluded.changes), gone = excluded.gone,
        due_at = coalesce(c.due_at, greatest(now(), c.told_at + c.pause_seconds * interval '1 second'))
