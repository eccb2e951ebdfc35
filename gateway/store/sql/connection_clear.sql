-- $1 connection. What a disconnected connection no longer needs; its audit, runs, deliveries and dead letters stay for people.
-- Its streams are taken whole by a statement before, as every other change of a connection does: nobody writes windows meanwhile.
with streams as (delete from stream where connection_id = $1),
     places as materialized (
         select d.meter, d.window_start from due_window d where d.connection_id = $1 order by d.meter, d.window_start for update
     ),
     windows as (
         delete from due_window d using places where d.connection_id = $1 and d.meter = places.meter and d.window_start = places.window_start
     ),
     matched as (delete from matched_metric where connection_id = $1),
     troubles as (delete from connection_trouble where connection_id = $1),
     withheld as (delete from withheld where connection_id = $1 and (select count(*) from places) >= 0),
     doubts as (delete from delivery_doubt where connection_id = $1 and (select count(*) from places) >= 0)
delete from meter_mapping where connection_id = $1 and (select count(*) from places) >= 0
