-- $1 customer, $2 connection, $3 stream, $4 the system's clock, $5 phase. Where history ends and news begin: one for all phases, set by the first that asks.
-- A history that is read again ends at the time at which that began; the news go on.
update inbound_stream s
set origin = case when $5 = 'initial' and (select i.high from inbound_stream i where (i.customer_id, i.connection_id, i.stream, i.phase) = ($1, $2, $3, 'incremental')) is not null
                  then $4 else coalesce((select max(o.origin) from inbound_stream o where (o.customer_id, o.connection_id, o.stream) = ($1, $2, $3)), $4) end
where (s.customer_id, s.connection_id, s.stream, s.phase) = ($1, $2, $3, $5) and s.origin is null
