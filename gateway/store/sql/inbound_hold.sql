-- $1 customer, $2 connection, $3 stream, $4 phase, $5 fence, $6 configuration of the link. The first step of a transaction that applies a page: while it lasts no other replica can take the
-- lease, and whoever ends the connection waits for us, or we for it. Whether the connection may still call its system, by this link. No row: the lease is lost.
select (select c.state in ('active', 'degraded') and c.settings_since <= $6 from connection c where c.connection_id = s.connection_id)
from inbound_stream s
where (s.customer_id, s.connection_id, s.stream, s.phase, s.fence) = ($1, $2, $3, $4, $5)
for no key update of s
