-- What an ingest session needs to be resumed by any replica: the seed of its client ids, and the filters it holds at the broker.

-- Whoever knows a client id can take its session over, so the ids are derived from a secret that only the database knows.
create table ingest_identity (
    instance text primary key,
    seed     bytea not null
);

create table ingest_subscription (
    client_id text not null,
    filter    text not null,
    primary key (client_id, filter)
);
