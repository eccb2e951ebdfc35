-- $1 connections, $2 their changes as they were seen. What has changed since stays; what is changing just now is not waited for.
with settled as materialized (
    select held.connection_id
    from unnest($1::text[], $2::bigint[]) as seen (connection_id, changes)
    cross join lateral (
        select r.connection_id from retained_change r
        where r.connection_id = seen.connection_id and r.changes = seen.changes
        for update skip locked
    ) held
)
delete from retained_change r using settled where r.connection_id = settled.connection_id
