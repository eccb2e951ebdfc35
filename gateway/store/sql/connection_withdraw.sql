-- $1 connection. The candidate is offered no more, and the settings are again those that are in use.
update connection c
set candidate = null,
    credential_type = coalesce((select k.type from credential k where k.connection_id = c.connection_id and k.generation = c.generation), credential_type),
    settings = coalesce(in_use -> 'settings', settings), host = coalesce(in_use ->> 'host', host),
    origin = coalesce(in_use ->> 'origin', origin), delivery = coalesce(in_use ->> 'delivery', delivery),
    settings_since = case when in_use is null then settings_since else configuration + 1 end, in_use = null, configuration = configuration + 1
where connection_id = $1 and (candidate is not null or in_use is not null)
