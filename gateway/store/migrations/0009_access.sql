-- Who may use the API and the dashboard, and the links that customers get to authorize a connection again. Only hashes of secrets are kept.

create table api_token (
    token_id     text primary key,
    hash         bytea not null unique,            -- SHA-256 of the token: 256 random bits need no salt
    name         text not null,
    role         text not null check (role in ('viewer', 'operator', 'admin')),
    customer_id  text,                             -- null: every customer
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,                      -- to five minutes
    expires_at   timestamptz,
    revoked_at   timestamptz
);
create unique index api_token_name on api_token (name) where revoked_at is null;

-- A way into the dashboard without typing a token: redeemed once, then gone.
create table login_link (
    hash        bytea primary key,
    name        text not null,
    role        text not null check (role in ('viewer', 'operator', 'admin')),
    customer_id text,
    expires_at  timestamptz not null
);

-- A browser that is logged in. One that came by an API token ends with the token.
create table dashboard_session (
    hash        bytea primary key,
    token_id    text references api_token on delete cascade,
    name        text not null,
    role        text not null check (role in ('viewer', 'operator', 'admin')),
    customer_id text,
    expires_at  timestamptz not null
);
create index dashboard_session_token on dashboard_session (token_id);

-- One link a connection at most: a new one takes the place of the old, which is void from then on.
create table reauthorization_link (
    connection_id text primary key references connection on delete cascade,
    hash          bytea not null unique,
    created_at    timestamptz not null default now(),
    expires_at    timestamptz not null,
    attempts      int not null default 0,          -- credentials that were given through it
    submitted_at  timestamptz                      -- the last of them; a verification that succeeded later has used the link up
);

-- A customer's browser that was sent to the system's login page, until it comes back.
create table authorization_flow (
    state_hash    bytea primary key,
    connection_id text not null references reauthorization_link on delete cascade,
    link_hash     bytea not null,
    browser_hash  bytea not null,                  -- of the cookie: only the browser that began may end
    sealed        bytea not null,                  -- the PKCE verifier, and the link to return to
    expires_at    timestamptz not null
);
create index authorization_flow_connection on authorization_flow (connection_id);
