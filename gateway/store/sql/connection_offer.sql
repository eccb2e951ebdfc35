-- $1 connection, $2 generation, $3 credential type, $4 digest where the file gave it, else null. A candidate that has to be verified before it is used.
update connection
set candidate = $2, credential_type = $3, declared_digest = coalesce($4, declared_digest), configuration = configuration + 1, probe_at = now()
where connection_id = $1
