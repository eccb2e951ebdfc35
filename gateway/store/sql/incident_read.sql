-- $1 incident, $2 customer or null for all.
select i.* from incident i where i.incident_id = $1 and ($2::text is null or $2 = any(i.customers))
