-- Connections live here whole: what the file or the API said of them, their credential's generation, their account, their schedule of probes.
-- declared_digest, from now on: of the credentials that the file gave last, keyed, so that it reveals nothing.

alter table connection
    add column settings         jsonb not null default '{}',
    add column sync             jsonb not null default '{}',   -- interval, initial_days, lateness: as they are written in the file
    add column meters           jsonb not null default '[]',   -- rules: device, metric, meter, unit, reduce, every (seconds), deadband
    add column managed_by       text not null default 'api' check (managed_by in ('file', 'api')),
    add column credential_type  text not null default 'none',
    add column configuration    bigint not null default 1,     -- one more with each change of settings, meters or credentials: links are built again
    add column generation       int not null default 0,        -- of the credential in use; 0: none yet
    add column generations      int not null default 0,        -- given so far: a number is never used twice
    add column candidate        int,                           -- of the credential that is being verified
    add column prior_state      text,                          -- where verifying and paused came from
    add column account          text,                          -- whose data the credential reaches, as the system said at activation
    add column price            int not null default 0,        -- credits, frozen at creation
    add column host             text not null default '',      -- of the system, for breakers and incidents
    add column request_id       text,                          -- of the call that the state comes from
    add column probe_at         timestamptz not null default now(),
    add column probe_attempts   int not null default 0,
    add column verify_until     timestamptz,                   -- a verification that met only transient failures is put off then
    add column failing_since    timestamptz;                   -- first of the transient failures in a row
create index connection_probe on connection (probe_at) where state <> 'disconnected';
create index connection_state on connection (state);

alter table connection_audit
    add column actor      text not null default 'gateway',     -- gateway, token:<name>, command, file, link
    add column request_id text;

-- What needs a person. Retained on MQTT while open; emptied there when solved.
create table issue (
    issue_id      text primary key,
    connection_id text not null references connection on delete cascade,
    code          text not null,
    severity      text not null check (severity in ('warning', 'error')),
    since         timestamptz not null default now(),
    title         text not null,
    instructions  text not null,
    action_url    text not null,
    request_id    text,
    solved_at     timestamptz
);
create unique index issue_open on issue (connection_id, code) where solved_at is null;
create index issue_connection on issue (connection_id);
alter table connection add column suspect_since timestamptz;                -- a web page has answered instead of the system ever since
