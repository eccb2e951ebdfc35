-- $1 connections. Each connection's open incident; where it has several, the widest.
select distinct on (c.connection_id) c.connection_id, i.incident_id
from unnest($1::text[]) as c (connection_id) join incident i on i.closed_at is null and c.connection_id = any(i.connections)
order by c.connection_id, array_position(array['system', 'host', 'connection'], i.scope)
