-- $1 connection, $2 settings, $3 sync, $4 meters, $5 hosting, $6 host, $7 delivery, $8 managed by, $9 origin, $10 alerts, $11 title. Links are built again by every replica.
update connection
set settings = $2, sync = $3, meters = $4, hosting = $5, host = $6, delivery = $7, managed_by = $8, origin = $9, alerts = $10, title = $11, configuration = configuration + 1, version = version + 1
where connection_id = $1
