-- $1 customers, $2 devices, $3 titles, $4 sources (null: neither is known), $5 last receipts, $6 last samples' times, $7 first samples' times, $8 metrics as
-- JSON: [time, value] by name, $9 first receipts, $10 how many samples, $11 seconds in which nothing was read (null: not known), $12 whether there may be metrics
-- that are not held, $13 how many metrics may be known. Times in microseconds since the epoch. No device twice. A device that was never registered is left out.
-- Returns the devices of which some metrics were forgotten, for there were more. A name and its value take at least 25 bytes as text.
-- Values that are all later than what is held replace it; where one is not, or the row has grown large, each is compared.
-- `paced`: one step of what is usual between two messages, in seconds of listening (ADR 44). Of `gap`, which `lasted` so long: a long one moves it by a quarter at
-- most, once it is made of sixteen; a short one by the part of it that it lasted, so that a burst changes nothing. What ends a silence is learned from anew.
-- Nothing is learned of a time in which its customer was over a quota: what it sent then may be among what was refused.
with given as materialized (
    select g.customer_id, g.device_id, g.title, g.source, d.place, g.is_news, d.first_seen_at, s.metrics as held,
           g.source is not null and (d.title, d.source) is distinct from (g.title, g.source) as is_named, timestamptz 'epoch' + g.seen * interval '1 microsecond' as seen_at,
           timestamptz 'epoch' + g.last * interval '1 microsecond' as sample_at, coalesce(g.unheard, s.unheard, 0) as unheard,
           s.interval_seconds as usual, coalesce(s.intervals, 0) as intervals, s.silent_since is not null as is_silent,
           case when s.last_seen_at is not null and not refused then greatest(extract(epoch from timestamptz 'epoch' + g.since * interval '1 microsecond' - s.last_seen_at)::float8
                - greatest(coalesce(g.unheard - s.unheard, 0), 0), 0) end as before,
           (g.seen - g.since) / 1e6::float8 as span, g.samples - 1 as gaps,
           case when s.metrics is null then g.metrics::jsonb
                when timestamptz 'epoch' + g.first * interval '1 microsecond' >= s.last_sample_at
                     and (pg_column_compression(s.metrics) is null and pg_column_size(s.metrics) < 1900 and octet_length(g.metrics) < 25 * (g.most - 76)
                          or octet_length(s.metrics::text) + octet_length(g.metrics) < 25 * g.most)
                then s.metrics || g.metrics::jsonb
                else merge_device_metrics(s.metrics, g.metrics::jsonb, g.most) end as metrics,
           case when pg_column_compression(s.metrics) is null and pg_column_size(s.metrics) < 1900 and octet_length(g.metrics) < 25 * (g.most - 76) then false
                when octet_length(s.metrics::text) + octet_length(g.metrics) < 25 * g.most then false
                else (select count(*) from jsonb_object_keys(s.metrics || g.metrics::jsonb)) > g.most end as is_cut
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::int[], $11::float8[], $12::bool[], $13::int[])
         as g (customer_id, device_id, title, source, seen, last, first, metrics, since, samples, unheard, is_news, most)
    -- by key, one by one: whatever the planner thinks of, a join of all the customer's devices is not read
    left join lateral (select * from device_state s where s.customer_id = g.customer_id and s.device_id = g.device_id limit 1) s on true
    -- what has a state is registered, and mostly nothing else is asked of its device: not to look it up is a quarter of all this
    left join lateral (select d.title, d.source, d.first_seen_at, d.ctid as place from device d
                       where (s.customer_id is null or g.is_news or g.source is not null) and d.customer_id = g.customer_id and d.device_id = g.device_id limit 1) d on true
    cross join lateral (select exists (
        select from quota_excess q
        where q.customer_id = g.customer_id and q.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')
          and (q.ended_at is null or q.ended_at > s.last_seen_at)
    ) as refused) q
    where s.customer_id is not null or d.place is not null
    order by g.customer_id, g.device_id
), named as (
    update device d set title = g.title, source = g.source
    from given g
    where d.ctid = any (array(select place from given where is_named)) and d.ctid = g.place
), paced as (
    select g.*, case when gap is null then usual when usual is null then gap
                     when gap > usual then usual * least(gap / usual, case when intervals < 16 then 1e12 else 1.25 end)
                     else greatest(gap, usual * exp(case when intervals < 16 then -0.7 else -0.223 end * least(lasted / usual, 1))) end as pace,
           least(100, case when is_silent then least(intervals, 14) else intervals end + case when gap is null or gap < usual / 4 then 0 when is_first then 1 else gaps end) as paces
    from given g
    cross join lateral (select before is not null and (gaps < 1 or before >= span) as is_first) f
    cross join lateral (select case when is_first then greatest(before, 1e-6) when gaps >= 1 then greatest(span / gaps, 1e-6) end as gap, case when is_first then before else span end as lasted) one
), fresh as (
    -- a device is known when it has sent for an hour, and for three of its intervals
    select g.customer_id, g.device_id, jsonb_object_agg(e.name, jsonb_build_array(metric_kind(g.held->e.name->1), metric_kind(e.entry->1))) as changes
    from given g cross join lateral jsonb_each(g.metrics) as e (name, entry)
    where g.is_news and g.held is not null and g.first_seen_at < g.seen_at - greatest(interval '1 hour', 3 * g.usual * interval '1 second')
      and metric_kind(g.held->e.name->1) is distinct from metric_kind(e.entry->1)
    group by g.customer_id, g.device_id
), changed as (
    insert into device_change as c (customer_id, device_id, changes, due_at)
    select customer_id, device_id, merge_metric_changes('{}', changes), now() from fresh order by customer_id, device_id
    on conflict (customer_id, device_id) do update
        set changes = merge_metric_changes(c.changes, excluded.changes), due_at = coalesce(c.due_at, greatest(now(), c.told_at + c.pause_seconds * interval '1 second'))
), stored as (
    insert into device_state as held (customer_id, device_id, last_seen_at, last_sample_at, metrics, unheard, interval_seconds, intervals, due_at)
    select customer_id, device_id, seen_at, sample_at, metrics, unheard, pace, paces, seen_at from paced order by customer_id, device_id
    on conflict (customer_id, device_id) do update
        set last_seen_at = greatest(held.last_seen_at, excluded.last_seen_at),
            last_sample_at = greatest(held.last_sample_at, excluded.last_sample_at), metrics = excluded.metrics,
            unheard = excluded.unheard, interval_seconds = excluded.interval_seconds, intervals = excluded.intervals, is_watched = true,
            due_at = case when held.silent_since is null then held.due_at else excluded.last_seen_at end
)
select customer_id, device_id from given where is_cut
