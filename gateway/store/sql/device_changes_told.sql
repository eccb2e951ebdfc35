-- $1 customers, $2 devices, $3 least and $4 most seconds until there is another. The pause doubles while changes keep coming within a day, and begins anew after it.
update device_change
set changes = '{}', due_at = null, told_at = case when changes = '{}' then told_at else now() end,
    pause_seconds = case when changes = '{}' then pause_seconds when told_at > now() - interval '1 day' - pause_seconds * interval '1 second'
                         then least(greatest(2 * pause_seconds, $3), $4) else $3 end
from unnest($1::text[], $2::text[]) as g (customer_id, device_id)
where device_change.customer_id = g.customer_id and device_change.device_id = g.device_id
