-- $1 now, $2 limit. Devices whose silence is to be looked at. `refused_until`: up to when not all that its customer sent was taken, for that was over a quota.
select state.customer_id, state.device_id, device.title, device.source, device.first_seen_at, state.last_seen_at, state.unheard, state.interval_seconds, state.intervals, state.is_watched, state.watched_at, state.silent_since,
       (select max(coalesce(excess.ended_at, $1)) from quota_excess excess
        where excess.customer_id = state.customer_id and excess.quota in ('messages_per_second', 'bytes_per_second', 'stored_bytes')) as refused_until
from device_state state
cross join lateral (select * from device where device.customer_id = state.customer_id and device.device_id = state.device_id limit 1) device
where state.due_at <= $1
order by state.due_at
limit $2
