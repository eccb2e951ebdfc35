-- What is retained on the broker, so that topics of connections that are gone can be emptied.
create table published_status (
    connection_id text primary key,
    topic         text not null,
    version       bigint not null
);
