-- Records: what the connected systems hold, and how far each inbound stream has read.

-- One row a customer, locked until commit by whoever changes its records: a revision at or below the position that a snapshot shows is committed and complete.
-- `at` never goes back, so the order of times is the order of revisions.
create table record_log (
    customer_id text primary key,
    position    bigint not null default 0,
    at          timestamptz not null default '-infinity'
) with (fillfactor = 50);

-- How far the records of a customer are told over MQTT. Not in record_log: the publisher would wait for whoever applies a page.
create table record_publication (
    customer_id text primary key,
    position    bigint not null default 0
) with (fillfactor = 50);

-- The last state of each record. version counts its changes; changed_at holds the times of the latest of them, up to this one. unseen: walks of all keys
-- in a row that missed it. retained: the broker keeps it.
create table record (
    customer_id        text not null,
    connection_id      text not null,
    stream             text not null,
    key                text not null,
    version            int not null default 1,
    revision           bigint not null,
    body               jsonb not null,
    hash               bytea not null,               -- of the canonical body with progress and reference: equal means that nothing changed
    modified_at        timestamptz not null,         -- ours: when the change was stored
    source_modified_at timestamptz,                  -- the system's
    deleted            boolean not null default false,
    truncated          boolean not null default false,
    progress           text check (progress in ('open', 'acknowledged', 'closed')),
    reference          text,
    changed_at         timestamptz[] not null,
    unseen             smallint not null default 0,
    retained           boolean not null default false,
    primary key (customer_id, connection_id, stream, key)
);
create unique index record_revision on record (customer_id, revision);
create index record_stream_revision on record (customer_id, connection_id, stream, revision);
create index record_modified on record (customer_id, modified_at);
create index record_reference on record (customer_id, connection_id, reference) where reference is not null;
create index record_retained on record (connection_id) where retained;
create index record_deleted on record (modified_at) where deleted;

-- A flow of records into us. Its phases are rows of their own, each with a lane, lease and schedule: what is new (incremental), the history (initial),
-- and the walk of all keys that shows deletions (reconcile).
create table inbound_stream (
    customer_id     text not null,
    connection_id   text not null references connection on delete cascade,
    stream          text not null,
    phase           text not null check (phase in ('incremental', 'initial', 'reconcile')),
    state           text not null default 'idle' check (state in ('idle', 'running', 'lagging', 'failed', 'done', 'off')),
    origin          timestamptz,                     -- the system's clock when the stream began: where history ends and news begin
    high            timestamptz,                     -- incremental: everything before it is applied. initial: everything from it to the origin
    initial_days    int not null default 0,
    open_done       boolean not null default false,  -- initial: what is still open was read first
    -- the walk in hand, from its first page to its last
    walk_low        timestamptz,
    walk_high       timestamptz,
    walk_cursor     text,
    walk_pages      bigint not null default 0,
    walk_records    bigint not null default 0,
    walk_total      bigint,
    walk_position   bigint not null default 0,       -- of the record log when it began
    walk_at         timestamptz,                     -- of its last page
    read_records    bigint not null default 0,       -- of this phase since it began
    began_at        timestamptz,
    -- what changed since it was last told
    created         bigint not null default 0,
    modified        bigint not null default 0,
    deleted         bigint not null default 0,
    told_position   bigint,                          -- of the record log before the first of these changes
    vanished        bigint not null default 0,       -- that a person has to confirm
    may_vanish      boolean not null default false,
    next_run_at     timestamptz not null default now(),
    attempts        int not null default 0,
    put_off         int not null default 0,
    last_error      text,
    last_success_at timestamptz,
    lease_owner     text,
    lease_until     timestamptz,
    fence           bigint not null default 0,
    primary key (customer_id, connection_id, stream, phase)
) with (fillfactor = 50);
create index inbound_stream_connection on inbound_stream (connection_id);
create index inbound_stream_next_run on inbound_stream (next_run_at);

-- How many records a stream holds. Changed only by whoever has the customer's record log.
create table inbound_count (
    customer_id   text not null,
    connection_id text not null,
    stream        text not null,
    held          bigint not null default 0,         -- deleted ones too
    alive         bigint not null default 0,
    primary key (customer_id, connection_id, stream)
) with (fillfactor = 50);

-- The keys that the walk in hand has seen; emptied at its end.
create table record_seen (
    customer_id   text not null,
    connection_id text not null,
    stream        text not null,
    key           text not null,
    primary key (customer_id, connection_id, stream, key)
);

-- A record whose body was cut is told among the dead letters of its connection.
alter table dead_letter drop constraint dead_letter_kind_check;
alter table dead_letter add constraint dead_letter_kind_check check (kind in ('message', 'reading', 'record'));

-- Pulls have a health of their own, as pushes do.
alter table breaker drop constraint breaker_operation_check;
alter table breaker add constraint breaker_operation_check check (operation in ('probe', 'push', 'pull'));
