-- $1 hash, $2 owner, $3 sealed, $4 seconds. A login that is under way stays so. No row where the draft is gone: what was forgotten does not come back.
update connect_draft set sealed = $3, expires_at = now() + in_seconds($4)
where hash = $1 and owner = $2 and expires_at > now()
returning true
