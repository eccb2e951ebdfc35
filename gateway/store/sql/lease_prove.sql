-- $1 name, $2 owner, $3 fence. True when the lease is theirs: until this transaction ends it can be renewed, and not taken (lease_claim.sql).
select true from lease where (name, owner, fence) = ($1, $2, $3) for key share
