-- $1 connection, $2 account (null: the system does not say), $3 delivery, as the settings have it (null: as it is). The candidate is the credential now, and the settings are in use.
update connection
set generation = coalesce(candidate, generation), candidate = null, account = coalesce($2, account), delivery = coalesce($3, delivery),
    settings_since = case when in_use is null then settings_since else configuration + 1 end, in_use = null, configuration = configuration + 1
where connection_id = $1
