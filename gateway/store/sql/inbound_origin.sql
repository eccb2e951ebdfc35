-- $1 customer, $2 connection, $3 stream, $4 the system's clock, $5 phase, $6 when it was asked, by our clock. Where history ends and news begin: one for all phases,
-- set by the first that asks. A history that is read again ends at the time at which that began; the news go on.
update inbound_stream s
set origin = case when own.is_again then $4 else coalesce(own.origin, $4) end, asked_at = case when own.is_again then s.asked_at else coalesce(own.asked_at, $6) end
from (
    select max(o.origin) as origin, min(o.asked_at) as asked_at,
           $5 = 'initial' and bool_or(o.phase = 'incremental' and o.high is not null) as is_again
    from inbound_stream o where (o.customer_id, o.connection_id, o.stream) = ($1, $2, $3)
) own
where (s.customer_id, s.connection_id, s.stream, s.phase) = ($1, $2, $3, $5) and s.origin is null
