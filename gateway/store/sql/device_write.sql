-- $1 customers, $2 devices, $3 titles, $4 sources (null: neither is known), $5 last receipts, $6 last samples' times, $7 first samples' times, $8 metrics as
-- JSON: [time, value] by name, $9 first receipts, $10 how many samples, $11 seconds in which nothing was read (null: not known), $12 whether there may be metrics
-- that are not held, $13 how many metrics may be known. Times in microseconds since the epoch. No device twice. A device that was never registered is left out.
-- Returns the devices of which some metrics were forgotten, for there were more. A name and its value take at least 25 bytes as text.
-- Values that are all later than what is held replace it; where one is not, or the row has grown large, each is compared.
-- `paced`: one step of what is usual between two messages, in seconds of listening (ADR 44). Of `gap`, which `lasted` so long: a long one moves it by a quarter at
-- most, once it is made of sixteen; a short one by the part of it that it lasted, so that a burst changes nothing. What ends a silence is learned from anew.
-- Nothing is learned of a time in which its customer was over a quota: what it sent then may be among what was refused.
with given as materialized (
    select given.customer_id, given.device_id, given.title, given.source, device.place, given.is_news, device.first_seen_at, state.metrics as held,
           given.source is not null and (device.title, device.source) is distinct from (given.title, given.source) as is_named, timestamptz 'epoch' + given.seen * interval '1 microsecond' as seen_at,
           timestamptz 'epoch' + given.last * interval '1 microsecond' as sample_at, coalesce(given.unheard, state.unheard, 0) as unheard,
           state.interval_seconds as usual, coalesce(state.intervals, 0) as intervals, state.silent_since is not null as is_silent,
           case when state.last_seen_at is not null and not refused then greatest(extract(epoch from timestamptz 'epoch' + given.since * interval '1 microsecond' - state.last_seen_at)::float8
                - greatest(coalesce(given.unheard - state.unheard, 0), 0), 0) end as before,
           (given.seen - given.since) / 1e6::float8 as span, given.samples - 1 as gaps,
           case when state.metrics is null then given.metrics::jsonb
                when timestamptz 'epoch' + given.first * interval '1 microsecond' >= state.last_sample_at
                     and (pg_column_compression(state.metrics) is null and pg_column_size(state.metrics) < 1900 and octet_length(given.metrics) < 25 * (given.most - 76)
                          or octet_length(state.metrics::text) + octet_length(given.metrics) < 25 * given.most)
                then state.metrics || given.metrics::jsonb
                else merge_device_metrics(state.metrics, given.metrics::jsonb, given.most) end as metrics,
           case when pg_column_compression(state.metrics) is null and pg_column_size(state.metrics) < 1900 and octet_length(given.metrics) < 25 * (given.most - 76) then false
                when octet_length(state.metrics::text) + octet_length(given.metrics) < 25 * given.most then false
                else (select count(*) from jsonb_object_keys(state.metrics || given.metrics::jsonb)) > given.most end as is_cut
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::int[], $11::float8[], $12::bool[], $13::int[])
         as given (customer_id, device_id, title, source, seen, last, first, metrics, since, samples, unheard, is_news, most)
    -- by key, one by one: whatever the planner thinks of, a join of all the customer's devices is not read
    left join lateral (select * from device_state state where state.customer_id = given.customer_id and state.device_id = given.device_id limit 1) state on true
    -- what has a state is registered, and mostly nothing else is asked of its device: not to look it up is a quarter of all this
    left join lateral (select device.title, device.source, device.first_seen_at, device.ctid as place from device
                       where (state.customer_id is null or given.is_news or given.source is not null) and device.customer_id = given.customer_id and device.device_id = given.device_id limit 1) device on true
    cross join lateral (select exists (
        select from quota_excess excess
        where excess.customer_id = given.customer_id and excess.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')
          and (excess.ended_at is null or excess.ended_at > state.last_seen_at)
    ) as refused) excess
    where state.customer_id is not null or device.place is not null
    order by given.customer_id, given.device_id
), named as (
    update device set title = given.title, source = given.source
    from given
    where device.ctid = any (array(select place from given where is_named)) and device.ctid = given.place
), paced as (
    select given.*, case when gap is null then usual when usual is null then gap
                     when gap > usual then usual * least(gap / usual, case when intervals < 16 then 1e12 else 1.25 end)
                     else greatest(gap, usual * exp(case when intervals < 16 then -0.7 else -0.223 end * least(lasted / usual, 1))) end as pace,
           least(100, case when is_silent then least(intervals, 14) else intervals end + case when gap is null or gap < usual / 4 then 0 when is_first then 1 else gaps end) as paces
    from given
    cross join lateral (select before is not null and (gaps < 1 or before >= span) as is_first) flags
    cross join lateral (select case when is_first then greatest(before, 1e-6) when gaps >= 1 then greatest(span / gaps, 1e-6) end as gap, case when is_first then before else span end as lasted) one
), fresh as (
    -- a device is known when it has sent for an hour, and for three of its intervals
    select given.customer_id, given.device_id, jsonb_object_agg(metric.name, jsonb_build_array(metric_kind(given.held->metric.name->1), metric_kind(metric.entry->1))) as changes
    from given cross join lateral jsonb_each(given.metrics) as metric (name, entry)
    where given.is_news and given.held is not null and given.first_seen_at < given.seen_at - greatest(interval '1 hour', 3 * given.usual * interval '1 second')
      and metric_kind(given.held->metric.name->1) is distinct from metric_kind(metric.entry->1)
    group by given.customer_id, given.device_id
), changed as (
    insert into device_change as change (customer_id, device_id, changes, due_at)
    select customer_id, device_id, merge_metric_changes('{}', changes), now() from fresh order by customer_id, device_id
    on conflict (customer_id, device_id) do update
        set changes = merge_metric_changes(change.changes, excluded.changes), due_at = coalesce(change.due_at, greatest(now(), change.told_at + change.pause_seconds * interval '1 second'))
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
