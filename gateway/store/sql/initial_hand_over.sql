-- $1 connection. Windows that are still open at the end of the initial sync go on in the incremental one; taken in the order of every other transaction.
with places as materialized (
    select d.ctid from due_window d
    where d.connection_id = $1 and d.phase = 'initial'
    order by d.meter, d.window_start
    for update
)
update due_window d set phase = 'incremental' from places where d.ctid = places.ctid
