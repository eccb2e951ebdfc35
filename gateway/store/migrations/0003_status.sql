-- What is retained on the broker, so that topics of connections that are gone can be emptied.
create table published_status (
    connection_id text primary key,
    topic         text not null,
    version       bigint not null
);

-- Replicas that have a status of their own on the broker.
create table announced_replica (
    replica_id   text primary key,
    last_seen_at timestamptz not null default now()
);
