-- $1 connection. The stream whole, so that no run judges while rules change, with the configuration that is in force.
select rules_of from alert_stream where connection_id = $1 for update
