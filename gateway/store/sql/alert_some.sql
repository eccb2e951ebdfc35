-- $1 alerts. Each as it is.
select * from alert where alert_id = any($1)
