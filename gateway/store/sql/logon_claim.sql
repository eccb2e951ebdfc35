-- $1 connection, $2 generation, $3 seconds that the call may take. Exactly one row: the place and the number of the call, both null when
-- none is free (at the very first call too: ask again), and whether both logons have failed, so that none will ever be.
with made as (
    insert into logon (connection_id, generation, place)
    select $1, $2, place from generate_series(1, 2) place
    where not exists (select from logon where connection_id = $1 and generation = $2)
    on conflict do nothing
), free as (
    select place from logon
    where connection_id = $1 and generation = $2 and failed_at is null and (claimed_until is null or claimed_until <= clock_timestamp())
    order by place
    limit 1
    for update skip locked
), taken as (
    update logon l
    set claimed_at = clock_timestamp(), claimed_until = clock_timestamp() + in_seconds($3), claim = l.claim + 1
    from free
    where l.connection_id = $1 and l.generation = $2 and l.place = free.place
    returning l.place, l.claim
)
select (select place from taken) as place, (select claim from taken) as claim,
       (select count(*) from logon where connection_id = $1 and generation = $2 and failed_at is not null) = 2 as lost
