-- $1 hash of the state, $2 hash of the browser's cookie. Takes the login, once; no row when it is not this browser's, was taken, or is too old.
with taken as (
    select hash from connect_draft
    where state_hash = $1 and browser_hash = $2 and flow_until > now() and expires_at > now()
    for update
)
update connect_draft d set state_hash = null, browser_hash = null, flow_until = null
from taken where d.hash = taken.hash
returning d.hash, d.link_id, d.owner, d.customer_id, d.sealed
