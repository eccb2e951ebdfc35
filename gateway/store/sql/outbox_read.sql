-- $1 position of the last event that was read, $2 most events. Only what no open transaction can still precede.
select position, event_id, type, customer_id, connection_id, lane, at, data, request_id
from event
where (revision, position) > (coalesce((select revision from event where position = $1), '0'::xid8), $1)
  and revision < pg_snapshot_xmin(pg_current_snapshot())
order by revision, position
limit $2
