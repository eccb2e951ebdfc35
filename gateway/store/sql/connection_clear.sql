-- $1 connection. What a disconnected connection no longer needs; its audit, runs, deliveries and dead letters stay for people.
-- Its streams are taken whole before its windows, as every other change of a connection does.
with held as materialized (select connection_id, name, phase from stream where connection_id = $1 order by name, phase for update),
     streams as (delete from stream s using held where (s.connection_id, s.name, s.phase) = (held.connection_id, held.name, held.phase)),
     places as materialized (
         select d.ctid from due_window d
         where d.connection_id = $1 and (select count(*) from held) >= 0
         order by d.meter, d.window_start
         for update
     ),
     windows as (delete from due_window d using places where d.ctid = places.ctid),
     troubles as (delete from connection_trouble where connection_id = $1),
     withheld as (delete from withheld where connection_id = $1 and (select count(*) from places) >= 0),
     doubts as (delete from delivery_doubt where connection_id = $1 and (select count(*) from places) >= 0)
delete from meter_mapping where connection_id = $1 and (select count(*) from places) >= 0
