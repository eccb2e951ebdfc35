-- How the calls of each connection go, which hosts and system types are held back for it, and what that was called.

-- One row a connection that ever called. Key columns never change with a call and no time is indexed, so that a success is an update in place.
create table call_health (
    connection_id   text primary key references connection on delete cascade,
    customer_id     text not null,
    system          text not null,
    host            text not null,
    last_success_at timestamptz,
    last_failure_at timestamptz,
    failing_since   timestamptz,                     -- first of the transient failures in a row; null: the last call was answered
    failures        int not null default 0,          -- in a row
    operations      text[] not null default '{}',    -- of those failures
    request_ids     text[] not null default '{}',    -- a sample of theirs
    last_error      text
) with (fillfactor = 70);
create index call_health_failing on call_health (connection_id) where failing_since is not null;

-- A row: the breaker is open. Nobody may call before next_trial_at; whoever may, moves it and is the one caller until then.
create table breaker (
    scope         text not null check (scope in ('host', 'system')),
    key           text not null,
    opened_at     timestamptz not null default now(),
    trials        int not null default 0,            -- that failed
    next_trial_at timestamptz not null,
    caller        text,                              -- whose trial is under way: replica/connection
    primary key (scope, key)
);

create table incident (
    incident_id    text primary key default gen_random_uuid()::text,
    scope          text not null check (scope in ('connection', 'host', 'system')),
    key            text not null,
    since          timestamptz not null,             -- the first failure
    opened_at      timestamptz not null default now(),
    calm_since     timestamptz,                      -- open, and over if it stays so
    closed_at      timestamptz,
    systems        text[] not null,
    operations     text[] not null,
    connections    text[] not null,                  -- everything that was affected at some time
    customers      text[] not null,
    request_ids    text[] not null,
    detail         text not null,                    -- why it was opened
    closing_detail text
);
create unique index incident_open on incident (scope, key) where closed_at is null;
create index incident_opened on incident (opened_at desc, incident_id desc);
