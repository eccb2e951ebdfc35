-- $1 hash.
delete from dashboard_session where hash = $1
