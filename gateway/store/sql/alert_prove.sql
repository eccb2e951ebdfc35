-- $1 connection, $2 fence. The last step of a transaction: while it ends no other replica can take the lease.
select true from alert_stream where (connection_id, fence) = ($1, $2) for no key update
