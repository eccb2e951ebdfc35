-- What customers gave, sealed; a generation is never changed, only followed by another. `key_id` is read from the record's header.
create table credential (
    connection_id  text not null references connection on delete cascade,
    generation     int not null,
    type           text not null,
    sealed         bytea not null,
    key_id         text not null generated always as (encode(substr(sealed, 2, 4), 'hex')) stored,
    created_at     timestamptz not null default now(),
    expires_at     timestamptz,                      -- of a certificate, or as it was given
    announced_days smallint,                         -- the last announcement of its expiry: 7, then 1
    primary key (connection_id, generation)
);
create index credential_expiry on credential (expires_at) where expires_at is not null;

-- Tokens in rows of their own: nothing else that changes can be in the way of storing a rotated one.
create table token (
    connection_id      text not null,
    generation         int not null,
    sealed             bytea,                        -- null before the first grant
    key_id             text generated always as (encode(substr(sealed, 2, 4), 'hex')) stored,
    serial             bigint not null default 0,    -- one more with each grant
    obtained_at        timestamptz,
    refresh_at         timestamptz,                  -- null: only when the system refuses it
    expires_at         timestamptz,
    refresh_expires_at timestamptz,                  -- of the refresh token, where the server says so
    refresh_is_fixed   boolean not null default false, -- the last grant did not move that: refreshing does not help
    announced_days     smallint,
    refused            text,                         -- invalid_grant: nobody asks with this generation again
    lease_owner        text,
    lease_until        timestamptz,
    fence              bigint not null default 0,
    primary key (connection_id, generation),
    foreign key (connection_id, generation) references credential on delete cascade
);
create index token_expiry on token (refresh_expires_at) where refresh_expires_at is not null;

-- Two places per generation of a technical user's password: a refused logon keeps its place, so there is never a third.
create table logon (
    connection_id text not null,
    generation    int not null,
    place         smallint not null check (place in (1, 2)),
    failed_at     timestamptz,
    claimed_at    timestamptz,
    claimed_until timestamptz,
    claim         bigint not null default 0,         -- one more with each call, so that a late answer changes nothing of another's
    primary key (connection_id, generation, place),
    foreign key (connection_id, generation) references credential on delete cascade
);
