-- $1 connection, $2 account (null: the system does not say). The candidate is the credential now.
update connection
set generation = coalesce(candidate, generation), candidate = null, account = coalesce($2, account), configuration = configuration + 1
where connection_id = $1
