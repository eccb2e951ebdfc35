-- $1 connection. What a disconnected connection no longer needs; its records go in their own time, a few at once.
with held as materialized (
    select s.customer_id, s.connection_id, s.stream, s.phase from inbound_stream s where s.connection_id = $1 order by s.stream, s.phase for update
), gone as (
    delete from inbound_stream s using held where (s.customer_id, s.connection_id, s.stream, s.phase) = (held.customer_id, held.connection_id, held.stream, held.phase)
), seen as (
    delete from record_seen r using connection c
    where c.connection_id = $1 and (r.customer_id, r.connection_id) = (c.customer_id, c.connection_id) and (select count(*) from held) >= 0
)
select
