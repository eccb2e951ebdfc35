-- Windows that were not sent because their value lay within the meter's deadband: they are looked at again when what they were
-- compared with changes. `again`: that has happened. Kept as long as deliveries are.
create table withheld (
    connection_id text not null,
    meter         text not null,
    window_start  timestamptz not null,
    again         boolean not null default false,
    primary key (connection_id, meter, window_start)
) partition by range (window_start);
create index withheld_again on withheld (connection_id, meter, window_start) where again;

-- Which configuration's meters are in force: 0 until they are brought in line, which is done at start. On the connection it says whether
-- that still has to be done; on the streams a run reads it under their lock, so that one that holds older rules writes nothing.
alter table connection add column meters_of bigint not null default 0;
alter table stream add column meters_of bigint not null default 0;
