-- Systems are tried before they are connected, connected step by step, and by a customer through a link.

-- A name for people; null: the id is all there is.
alter table connection add column title text check (title <> '');

-- Logons of technical users that were tried without being stored: whose is a keyed digest. Counted before the call, so that a process that dies counts as refused.
create table tried_logon (
    digest bytea primary key,
    taken  smallint not null,
    at     timestamptz not null
);

-- A customer's way to connect a system; whoever has the address can use it once.
create table connect_link (
    link_id       text primary key default gen_random_uuid()::text,
    hash          bytea not null unique,
    customer_id   text not null,
    systems       text[] not null check (systems <> '{}'),
    created_at    timestamptz not null default now(),
    created_by    text not null,
    expires_at    timestamptz not null,
    revoked_at    timestamptz,
    connection_id text,                            -- what was made of it: it is used up
    sealed        bytea not null                   -- what the integrator gave ahead: settings, an OAuth client
);
create index connect_link_customer on connect_link (customer_id, created_at desc);

-- What was entered so far of a system that is not connected yet, credentials among it. Short-lived.
create table connect_draft (
    hash           bytea primary key,              -- of the secret in the address
    link_id        text unique references connect_link on delete cascade,
    owner          text not null,                  -- whose session began it; or the link
    customer_id    text not null,
    sealed         bytea not null,
    expires_at     timestamptz not null,
    state_hash     bytea unique,                   -- a login on the system's page that is under way, with
    browser_hash   bytea,                          -- the browser that began it, and until when it may end
    flow_until     timestamptz
);
create index connect_draft_expiry on connect_draft (expires_at);
