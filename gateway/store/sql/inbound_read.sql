-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 seconds after which a walk is not gone on with. Where the stream is, the record log, and what time
-- it is here.
select s.origin, s.high, s.initial_days, s.open_done, s.asked_at, s.walk_asked_at, clock_timestamp() as at, s.walk_pages, s.walk_position,
       case when s.walk_at > now() - in_seconds($6) then s.walk_low end as walk_low,
       case when s.walk_at > now() - in_seconds($6) then s.walk_high end as walk_high,
       case when s.walk_at > now() - in_seconds($6) then s.walk_cursor end as walk_cursor,
       coalesce((select l.position from record_log l where l.customer_id = $1), 0) as position
from inbound_stream s
where (s.customer_id, s.connection_id, s.stream, s.phase, s.fence) = ($1, $2, $3, $4, $5)
