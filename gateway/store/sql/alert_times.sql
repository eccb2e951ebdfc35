-- $1 alert, $2 since, $3 opened, $4 well, $5 why. The alert as it is now.
update alert set since = $2, opened_at = $3, well_at = $4, why = $5, version = version + 1, changed_at = clock_timestamp() where alert_id = $1
returning *
