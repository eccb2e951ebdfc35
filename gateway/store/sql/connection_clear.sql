-- $1 connection. What a disconnected connection no longer needs; its audit, runs, deliveries and dead letters stay for people.
with streams as (delete from stream where connection_id = $1),
     troubles as (delete from connection_trouble where connection_id = $1),
     windows as (delete from due_window where connection_id = $1)
delete from meter_mapping where connection_id = $1
