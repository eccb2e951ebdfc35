-- No parameters. Adds what has changed to what is kept, in one statement, so that whoever reads both sees neither twice. One replica at a
-- time; whoever changes something meanwhile waits for nobody.
with alone as materialized (
    select pg_try_advisory_xact_lock(hashtext('fieldgate.counts')) as mine
), taken as (
    delete from count_change where (select mine from alone) returning connection_id, kind, part, change
)
insert into kept_count as held (connection_id, kind, part, number)
select connection_id, kind, part, sum(change) from taken group by connection_id, kind, part having sum(change) <> 0
on conflict (connection_id, kind, part) do update set number = held.number + excluded.number
