-- $1 incident, $2 systems, $3 operations, $4 connections, $5 customers, $6 request ids.
update incident set systems = $2, operations = $3, connections = $4, customers = $5, request_ids = $6 where incident_id = $1
