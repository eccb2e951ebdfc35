-- $1 connections. Locked in one order; the status document of each has changed.
with held as (
    select connection_id from connection where connection_id = any($1) order by connection_id for no key update
)
update connection c set version = c.version + 1 from held where c.connection_id = held.connection_id returning c.connection_id, c.customer_id
