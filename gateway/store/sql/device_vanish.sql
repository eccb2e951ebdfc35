-- $1 customers, $2 devices, $3 seconds. Metrics that did not come for so long, nor in ten intervals of the device, by the time of its samples, have vanished; and
-- those that had vanished and came since are there again.
with looked as materialized (
    select given.customer_id, given.device_id, state.metrics, coalesce(change.gone, '{}') as gone,
           extract(epoch from state.last_sample_at - greatest($3::float8, 10 * coalesce(state.interval_seconds, 0)) * interval '1 second') * 1000000 as before
    from unnest($1::text[], $2::text[]) as given (customer_id, device_id)
    cross join lateral (select * from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id limit 1) state
    left join lateral (select * from device_change change where change.customer_id = given.customer_id and change.device_id = given.device_id limit 1) change on true
), found as materialized (
    select looked.*, coalesce((select array_agg(metric.name order by metric.name) from jsonb_each(looked.metrics) as metric (name, entry) where (metric.entry->>0)::bigint < looked.before), '{}') as names
    from looked
), news as (
    select customer_id, device_id, names,
           (select jsonb_object_agg(name, case when is_gone then jsonb_build_array(kind, null) else jsonb_build_array(null, kind) end)
            from (
                select name, metric_kind(metrics->name->1) as kind, true as is_gone from unnest(names) as each_name (name) where name <> all (gone)
                union all
                select name, metric_kind(metrics->name->1), false from unnest(gone) as each_name (name) where name <> all (names) and metrics ? name
            ) one) as changes
    from found
    where names <> gone
)
insert into device_change as change (customer_id, device_id, changes, gone, due_at)
select customer_id, device_id, merge_metric_changes('{}', coalesce(changes, '{}')), names, now() from news order by customer_id, device_id
on conflict (customer_id, device_id) do update
    set changes = merge_metric_changes(change.changes, excluded.changes), gone = excluded.gone,
        due_at = coalesce(change.due_at, greatest(now(), change.told_at + change.pause_seconds * interval '1 second'))
