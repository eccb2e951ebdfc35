-- The spine: customers and devices, telemetry, connections, meter mappings, due windows, deliveries, dead letters, runs, leases.
-- customer_id or connection_id leads every key. Times are the database's clock unless a device's own.

create table customer (
    customer_id text primary key,
    created_at  timestamptz not null default now()
);

-- A device registers itself with its first sample, in the same transaction; `revision` lets a stream see new ones.
create table device (
    customer_id   text not null references customer,
    device_id     text not null,
    first_seen_at timestamptz not null default now(),
    revision      xid8 not null default pg_current_xact_id(),
    primary key (customer_id, device_id)
);
create index device_revision on device (customer_id, revision);

-- One row per (customer, device, instant). A change merges metrics and takes the changing transaction's id as its revision; `changes` counts them.
create table telemetry (
    customer_id text not null,
    device_id   text not null,
    ts          timestamptz not null,
    metrics     jsonb not null,
    received_at timestamptz not null,
    changes     int not null default 0,
    revision    xid8 not null default pg_current_xact_id(),
    primary key (customer_id, device_id, ts)
) partition by range (ts);
create index telemetry_revision on telemetry (customer_id, revision);

create table connection (
    connection_id   text primary key,
    customer_id     text not null references customer,
    system          text not null,
    hosting         text not null check (hosting in ('cloud', 'on_premises')),
    tier            smallint not null,
    state           text not null default 'pending',
    reason          text,
    since           timestamptz not null default now(),
    version         bigint not null default 1,       -- of the status document: one more with each change
    declared_digest text not null,                   -- of the declaration, without secrets: a change re-materialises the meters
    delivery        text not null default 'at_least_once',
    created_at      timestamptz not null default now()
);
create index connection_customer on connection (customer_id);

-- Every transition, for people.
create table connection_audit (
    audit_id      bigint generated always as identity primary key,
    connection_id text not null references connection on delete cascade,
    at            timestamptz not null default now(),
    from_state    text,
    to_state      text not null,
    trigger       text not null,
    reason        text
);
create index connection_audit_connection on connection_audit (connection_id, at);

-- A flow of a connection. Two phases of `readings` are two rows, so each has its own lane, lease, schedule and progress.
create table stream (
    connection_id      text not null references connection on delete cascade,
    name               text not null,
    phase              text not null check (phase in ('initial', 'incremental')),
    state              text not null default 'idle' check (state in ('idle', 'running', 'lagging', 'failed', 'done')),
    -- incremental: everything below this revision has been scanned; devices below device_watermark are materialised
    watermark          xid8 not null default '0',
    device_watermark   xid8 not null default '0',
    -- initial: windows in [initial_from, initial_cursor) are marked; done at initial_until
    initial_from       timestamptz,
    initial_cursor     timestamptz,
    initial_until      timestamptz,
    initial_clipped_to interval,                     -- what the system's max_backfill left of the wish
    -- schedule and lease
    next_run_at        timestamptz not null default now(),
    attempts           int not null default 0,
    last_error         text,
    last_success_at    timestamptz,
    lease_owner        text,
    lease_until        timestamptz,
    fence              bigint not null default 0,
    primary key (connection_id, name, phase)
);
create index stream_next_run on stream (next_run_at);

-- A rule of the configuration applied to a device. retry_at: the system said "not now" about this meter.
create table meter_mapping (
    connection_id text not null references connection on delete cascade,
    meter         text not null,
    device_id     text not null,
    metric        text not null,
    reduce        text not null,
    span          interval not null,                 -- the window; for `each` the system's resolution
    deadband      double precision not null default 0,
    unit          text,
    retry_at      timestamptz,
    primary key (connection_id, meter)
);
create index meter_mapping_device on meter_mapping (connection_id, device_id, metric);

-- Windows whose value may differ from what was delivered. `mark` changes whenever telemetry below it changes,
-- so a delivery only removes the mark that it computed from.
create table due_window (
    connection_id text not null references connection on delete cascade,
    meter         text not null,
    window_start  timestamptz not null,
    phase         text not null,
    closes_at     timestamptz not null,
    mark          xid8 not null default pg_current_xact_id(),
    attempts      int not null default 0,
    primary key (connection_id, meter, window_start)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index due_window_order on due_window (connection_id, phase, window_start, meter);

-- What the system holds, by key.
create table delivery (
    connection_id text not null,
    meter         text not null,
    window_start  timestamptz not null,
    value         jsonb not null,
    remote_id     text,
    delivered_at  timestamptz not null default now(),
    primary key (connection_id, meter, window_start)
) partition by range (window_start);

-- Written before a push whose repetition could harm, removed with its outcomes: what a killed process may have sent.
create table push_intent (
    connection_id text not null,
    name          text not null,
    phase         text not null,
    batch_id      text not null,
    readings      jsonb not null,
    sent_at       timestamptz not null default now(),
    primary key (connection_id, name, phase),
    foreign key (connection_id, name, phase) references stream on delete cascade
);

-- What nobody could take: a message that is no sample, or a reading that the system refused. Equal messages are counted, not repeated.
create table dead_letter (
    dead_letter_id bigint generated always as identity primary key,
    kind           text not null check (kind in ('message', 'reading')),
    digest         bytea not null,
    customer_id    text,
    connection_id  text references connection on delete cascade,
    topic          text,
    meter          text,
    window_start   timestamptz,
    reason         text not null,
    detail         text not null,
    payload        bytea,
    occurrences    bigint not null default 1,
    first_at       timestamptz not null default now(),
    last_at        timestamptz not null default now(),
    unique (kind, digest)
);
create index dead_letter_connection on dead_letter (connection_id, last_at) where connection_id is not null;

create table sync_run (
    run_id        bigint generated always as identity primary key,
    connection_id text not null references connection on delete cascade,
    name          text not null,
    phase         text not null,
    started_at    timestamptz not null,
    ended_at      timestamptz not null default now(),
    outcome       text not null check (outcome in ('completed', 'failed')),
    samples       bigint not null default 0,
    delivered     bigint not null default 0,
    modified      bigint not null default 0,
    unchanged     bigint not null default 0,
    rejected      bigint not null default 0,
    retried       bigint not null default 0,
    error         text
);
create index sync_run_connection on sync_run (connection_id, started_at desc);

-- Named leases with a fence: ingest partitions, the holder of the gateway's status. On the database's clock.
create table lease (
    name        text primary key,
    owner       text,
    lease_until timestamptz,
    fence       bigint not null default 0
);

create table replica (
    replica_id   text primary key,
    started_at   timestamptz not null default now(),
    last_seen_at timestamptz not null default now()
);

-- Daily partitions, made on demand by whoever writes the first row of a day; retention drops whole ones.
create function ensure_partition(parent text, day date) returns void language plpgsql as $$
declare
    child text := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
begin
    if to_regclass(child) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext('fieldgate.partition.' || child));
    if to_regclass(child) is not null then
        return;
    end if;
    execute format('create table %I partition of %I for values from (%L) to (%L)',
                   child, parent, (day::timestamp at time zone 'UTC'), ((day + 1)::timestamp at time zone 'UTC'));
end $$;
