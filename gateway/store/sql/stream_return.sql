-- $1 connection, $2 name, $3 phase, $4 fence. The stream is given back as it was: its claimant cannot serve it.
update stream set lease_owner = null, lease_until = null where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
