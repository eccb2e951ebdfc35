-- $1 incident, $2 why. Nothing when it was closed.
update incident set closed_at = now(), closing_detail = $2 where incident_id = $1 and closed_at is null returning *
