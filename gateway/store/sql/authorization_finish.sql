-- $1 hash of the state, $2 hash of the browser's cookie. Takes the flow; no row when it is not this browser's, was taken, is too old, or the link was replaced.
delete from authorization_flow f using reauthorization_link l, connection c
where f.state_hash = $1 and f.browser_hash = $2 and f.expires_at > now() and l.connection_id = f.connection_id and l.hash = f.link_hash
  and c.connection_id = f.connection_id
returning f.connection_id, c.customer_id, f.link_hash, f.sealed
