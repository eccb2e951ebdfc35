-- $1 connection, $2 generation, $3 place, $4 number of the call, $5 whether the system let the user in, $6 operation.
-- Frees the place. A logon that succeeded gives back a place that was lost before it began, if the same operation lost it: a system that
-- lets a user read and refuses its writing would else be asked without end.
update logon l
set claimed_until = case when l.place = $3 then null else l.claimed_until end,
    failed_at = case when $5 and l.failed_at < mine.claimed_at and coalesce(l.operation, $6) = $6 then null else l.failed_at end
from (select claimed_at from logon where connection_id = $1 and generation = $2 and place = $3 and claim = $4) mine
where l.connection_id = $1 and l.generation = $2 and (l.place = $3 or ($5 and l.failed_at < mine.claimed_at))
