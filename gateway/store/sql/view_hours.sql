-- $1 connections, $2 since. What each delivered, by the hour.
select connection_id, hour, delivered + modified as delivered, rejected
from connection_hour
where connection_id = any($1) and hour >= $2
order by connection_id, hour
