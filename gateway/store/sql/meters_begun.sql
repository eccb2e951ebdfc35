-- $1 connection, $2 the configuration whose meters are in force from now on, $3 what they were made of, $4 how often its streams run,
-- $5 how many meters there are (null: as many as before).
with streams as (update stream set meters_of = $2, every = $4 where connection_id = $1)
update connection set meters_of = $2, meters_digest = $3, meter_count = coalesce($5, meter_count) where connection_id = $1
