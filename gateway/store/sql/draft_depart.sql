-- $1 hash, $2 owner, $3 hash of the state, $4 hash of the browser's cookie, $5 seconds, $6 sealed. Takes the place of an earlier login.
update connect_draft set state_hash = $3, browser_hash = $4, flow_until = now() + in_seconds($5), sealed = $6
where hash = $1 and owner = $2 and expires_at > now()
returning true
