-- $1 connection, $2 generation, $3 fence, $4 what the authorization server said. True when it is this generation that is refused.
-- Not where another replica has got a token meanwhile (the fence), and not for a credential that has been replaced.
update token t
set refused = $4, lease_owner = null, lease_until = null
from connection c
where t.connection_id = $1 and t.generation = $2 and t.fence = $3
  and c.connection_id = t.connection_id and c.generation <= t.generation
returning true
