-- $1 connection, $2 generation, $3 place, $4 number of the call, $5 operation. The place is lost.
update logon set failed_at = clock_timestamp(), claimed_until = null, operation = $5
where connection_id = $1 and generation = $2 and place = $3 and claim = $4
