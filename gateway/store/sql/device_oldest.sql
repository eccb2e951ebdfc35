-- $1 customers, $2 devices, $3 times in microseconds since the epoch, in the order of the key. From the first sample of a device on, which is stored in the
-- transaction that registers it (so that its row bears the time of this transaction), it is known that there is no earlier one.
update device set oldest_at = given.oldest_at
from (
    select customer_id, device_id, timestamptz 'epoch' + at * interval '1 microsecond' as oldest_at
    from unnest($1::text[], $2::text[], $3::bigint[]) as sample (customer_id, device_id, at)
) given
where device.customer_id = given.customer_id and device.device_id = given.device_id
  and (device.oldest_at > given.oldest_at or (device.oldest_at is null and device.first_seen_at = now()))
