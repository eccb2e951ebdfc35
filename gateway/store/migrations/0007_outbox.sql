-- The outbox: events written with the change that they report, on their way to MQTT and to webhooks.

create table event (
    position      bigint generated always as identity primary key,
    event_id      uuid not null unique default gen_random_uuid(),
    type          text not null,
    customer_id   text,                                      -- null: the gateway as a whole
    connection_id text,                                      -- no reference: events outlive what they tell of
    lane          text not null,                             -- what is told in order: the connection, or /customer, or / for the gateway
    at            timestamptz not null default clock_timestamp(),
    data          jsonb not null,
    request_id    text,
    revision      xid8 not null default pg_current_xact_id(), -- readers page by it: commit order is not the order of positions
    published_at  timestamptz                                -- when MQTT took it
);
create index event_unpublished on event (lane, position) where published_at is null;
create index event_revision on event (revision, position);
create index event_customer on event (customer_id, revision, position);
create index event_at on event (at);

create table webhook_endpoint (
    endpoint_id       text primary key,
    customer_id       text,                                  -- null: every customer's events and the gateway's own
    url               text not null,
    types             text[] not null default '{}',          -- empty: every type
    secret            bytea not null,                        -- sealed
    generation        int not null default 1,                -- of the secret
    previous_secret   bytea,                                 -- signs as well until previous_until
    previous_until    timestamptz,
    created_at        timestamptz not null default now(),
    failing_since     timestamptz,                           -- first failure after the last success
    failed_at         timestamptz,
    last_error        text,
    last_success_at   timestamptz,
    disabled_at       timestamptz,
    disabled_reason   text
);
create index webhook_endpoint_audience on webhook_endpoint ((coalesce(customer_id, '')));

-- One event for one endpoint. No reference to the endpoint: removing one must never refuse the transaction that reports a change.
create table webhook_delivery (
    position     bigint not null references event on delete cascade,
    endpoint_id  text not null,
    lane         text not null,
    state        text not null default 'pending' check (state in ('pending', 'delivered', 'given_up')),
    attempt      int not null default 0,                     -- ever made: counted before the request leaves
    tried        int not null default 0,                     -- of the present schedule
    next_at      timestamptz,                                -- null: at once
    lease_until  timestamptz,
    replay       boolean not null default false,
    error        text,
    delivered_at timestamptz,
    primary key (position, endpoint_id)
);
create index webhook_delivery_pending on webhook_delivery (endpoint_id, lane, position) where state = 'pending';
create index webhook_delivery_endpoint on webhook_delivery (endpoint_id, position);

-- Issues that the broker retains, noted before they are published, so that none is left behind. What was emptied is remembered for a while:
-- a broker that was killed may come back with what it retained before.
create table retained_issue (
    topic      text primary key,
    emptied_at timestamptz
);

-- A disconnected connection's last document was published and then removed: neither comes again.
alter table published_status add column ended_at timestamptz;
