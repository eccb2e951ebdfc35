-- What of `record` alerts are followed by. Where records are kept the table is there already, with more.
create table if not exists record (
    customer_id   text not null,
    connection_id text not null,
    stream        text not null,
    key           text not null,
    deleted       boolean not null default false,
    progress      text,
    reference     text,
    primary key (customer_id, connection_id, stream, key)
);
