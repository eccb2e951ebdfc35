-- Alerts: what telemetry is judged by, how far the judgement is, and what became of each alert. Meters that were made at the system.

alter table connection add column alerts jsonb not null default '[]';

-- One row a connection with rules: the place in the log up to which it is judged, schedule and lease. rules_of: the configuration whose rules are in force.
create table alert_stream (
    connection_id text primary key references connection on delete cascade,
    customer_id   text not null,
    watermark     bigint not null,                    -- the last position of the customer's log that is judged
    followed      bigint not null default -1,         -- the last position of the customer's record log that was looked at
    rules_of      bigint not null,
    next_run_at   timestamptz not null default now(),
    calls_at      timestamptz not null default now(), -- no call to the system before
    attempts      int not null default 0,
    put_off       int not null default 0,
    lease_owner   text,
    lease_until   timestamptz,
    fence         bigint not null default 0
) with (fillfactor = 50);
create index alert_stream_next_run on alert_stream (next_run_at);

-- Rules in force. begun_at: since when it judges as it does; what devices measured before says nothing to it.
create table alert_rule (
    connection_id text not null references connection on delete cascade,
    rule_id       text not null,
    document      jsonb not null,
    begun_at      timestamptz not null,
    primary key (connection_id, rule_id)
);

-- What a rule has made of a device's log. judged_at: device time of the newest sample, in microseconds. heard_at: when something of it was judged last.
-- due_at: when its silence is to be looked at; it moves only when it is past, so a device that sends costs no index.
create table alert_judgement (
    connection_id text not null,
    rule_id       text not null,
    device_id     text not null,
    judged_at     bigint not null,
    state         jsonb not null,
    heard_at      timestamptz not null,
    due_at        timestamptz,
    primary key (connection_id, rule_id, device_id),
    foreign key (connection_id, rule_id) references alert_rule on delete cascade
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index alert_judgement_due on alert_judgement (connection_id, due_at) where due_at is not null;

-- since, opened_at, well_at: device time. why: what ended it. begun_at: of its rule. due_at: when the system is called next, to raise it or to note its
-- end (noting); null: there is nothing to call for.
create table alert (
    alert_id        text primary key,
    customer_id     text not null,
    connection_id   text not null references connection on delete cascade,
    rule_id         text not null,
    device_id       text not null,
    metric          text,
    kind            text not null,
    severity        text not null,
    title           text not null,
    text            text not null,
    value           jsonb not null,
    begun_at        timestamptz not null,
    state           text not null default 'pending',
    since           timestamptz not null,
    opened_at       timestamptz not null,
    well_at         timestamptz,
    why             text,
    remote_id       text,
    created_at      timestamptz not null default now(),
    raised_at       timestamptz,
    acknowledged_at timestamptz,
    closed_at       timestamptz,
    cleared_at      timestamptz,
    failed_at       timestamptz,
    noting          boolean not null default false,
    due_at          timestamptz default now(),
    attempts        int not null default 0,
    error           text,
    version         bigint not null default 1,
    told            bigint,                           -- the version that the broker has; null: none
    changed_at      timestamptz not null default clock_timestamp()
) with (fillfactor = 70);
-- At most one open for a connection, a rule and a device.
create unique index alert_open on alert (connection_id, rule_id, device_id) where well_at is null;
create index alert_due on alert (connection_id, due_at) where due_at is not null;
create index alert_device on alert (connection_id, rule_id, device_id, opened_at);
-- Open ones are counted from these alone, by connection and by severity.
create index alert_uncleared on alert (connection_id, severity) where state <> 'cleared';
create index alert_repeated on alert (alert_id) where state <> 'cleared';
-- What the broker is to be told, in the order in which it changed: empty where nothing has.
create index alert_untold on alert (changed_at) where told is distinct from version;
create index alert_listed on alert (created_at, alert_id);
create index alert_customer on alert (customer_id, created_at, alert_id);

-- What the broker retains of alerts, as retained_issue does for issues.
create table retained_alert (
    topic      text primary key,
    emptied_at timestamptz,
    alert_id   text generated always as (reverse(split_part(reverse(topic), '/', 1))) stored  -- .../alerts/ALERT
);
create index retained_alert_emptied on retained_alert (emptied_at) where emptied_at is not null;

-- Since when some replica has listened to devices without a break, and when it was last seen to: silence counts only while somebody listens.
create table listening (
    only_row boolean primary key default true check (only_row),
    since    timestamptz not null,
    seen_at  timestamptz not null
);

-- Meters that the system was asked to make, or that wait for it. state: `wanted`, `made`, `refused`.
create table meter_made (
    connection_id text not null references connection on delete cascade,
    meter         text not null,
    state         text not null default 'wanted' check (state in ('wanted', 'made', 'refused')),
    remote_title  text,
    error         text,
    attempts      int not null default 0,
    due_at        timestamptz default now(),
    made_at       timestamptz,
    primary key (connection_id, meter)
);
create index meter_made_due on meter_made (connection_id, due_at) where due_at is not null;
-- Those that are missing are counted from this alone, however many are made.
create index meter_made_missing on meter_made (connection_id, state) where state <> 'made';
