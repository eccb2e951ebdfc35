-- $1 connections. Topics of their issues that the broker retains.
select topic from retained_issue where connection_id = any($1) and emptied_at is null
