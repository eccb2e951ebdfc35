-- $1 connection, $2 settings, $3 sync, $4 meters, $5 hosting, $6 host, $7 delivery, $8 managed by, $9 origin, $10 alerts, $11 title. Links are built again by every replica.
-- Settings that are new are in force when they are verified: those before stay in use until then. With one that is being verified it begins anew.
update connection
set settings = $2, sync = $3, meters = $4, hosting = $5, host = $6, delivery = $7, managed_by = $8, alerts = $10, title = $11, configuration = configuration + 1, version = version + 1,
    origin = case when $2 = in_use -> 'settings' and $9 <> 'trusted' then in_use ->> 'origin' else $9 end,
    in_use = case
        when generation = 0 or $2 = coalesce(in_use -> 'settings', settings) then null
        else coalesce(in_use, jsonb_build_object('settings', settings, 'host', host, 'origin', origin, 'delivery', delivery))
    end,
    settings_since = case when settings <> $2 then configuration + 1 else settings_since end,
    probe_at = case when settings <> $2 and state = 'verifying' then now() else probe_at end
where connection_id = $1
