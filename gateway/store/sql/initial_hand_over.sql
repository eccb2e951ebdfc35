-- $1 connection. Windows that are still open at the end of the initial sync go on in the incremental one; taken in the order of every other transaction.
-- By key and not by place: a window that a scan marked again while we waited for it is another row by then, which the place of ours does not find.
with places as materialized (
    select d.meter, d.window_start from due_window d
    where d.connection_id = $1 and d.phase = 'initial'
    order by d.meter, d.window_start
    for update
)
update due_window d set phase = 'incremental' from places
where d.connection_id = $1 and d.meter = places.meter and d.window_start = places.window_start
