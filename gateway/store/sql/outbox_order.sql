-- Events that are committed and have no place yet get one after all places that readers may have seen, in the order of their positions: nothing appears
-- before what was read, and nobody waits for a transaction that is open elsewhere. $1 how many at most.
-- One reader at a time: the log's row is locked before the events, until the end of this statement. Whoever waited finds them done.
with log as materialized (
    select position from event_log where exists (select from event where revision is null) for update
), fresh as materialized (
    select e.position from event e
    where e.revision is null and (select position from log) is not null
    order by e.position limit $1
    for no key update
), numbered as materialized (
    select fresh.position, log.position + row_number() over (order by fresh.position) as revision from fresh cross join log
), moved as (
    update event_log l set position = n.last from (select max(revision) as last from numbered) n where n.last is not null
)
update event e set revision = n.revision from numbered n where e.position = n.position
