-- $1 connection, $2 rules (null: all of them), $3 why. Everything of these that is not over at the system is over by now.
update alert set well_at = coalesce(well_at, greatest(now(), opened_at)), why = coalesce(why, $3), version = version + 1, changed_at = clock_timestamp()
where connection_id = $1 and ($2::text[] is null or rule_id = any($2)) and state <> 'cleared'
returning *
