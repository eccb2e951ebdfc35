-- $1 incident, $2 since when it is calm, null when it is not.
update incident set calm_since = $2 where incident_id = $1 and calm_since is distinct from $2
