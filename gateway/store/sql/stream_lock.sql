-- $1 connection, $2 name, $3 phase, $4 fence. The last step of a transaction: while it ends no other replica can take the lease.
select true from stream where (connection_id, name, phase, fence) = ($1, $2, $3, $4) for no key update
