-- $1 connection, $2 account (null: the system does not say), $3 delivery, as the settings have it. The candidate is the credential now.
update connection
set generation = coalesce(candidate, generation), candidate = null, account = coalesce($2, account), delivery = $3, configuration = configuration + 1
where connection_id = $1
