-- Names of tokens are each customer's own: who makes one does not learn by it which others have. Null: those that are bound to no customer.
drop index api_token_name;
create unique index api_token_name on api_token (customer_id, name) nulls not distinct where revoked_at is null;

-- Logouts that an identity provider told of, for as long as a login may be on its way: one whose ID token is no younger begins no session any more.
create table finished_logout (
    issuer    text not null,
    subject   text,                           -- null: of whoever has this session there
    sid       text,                           -- null: all sessions of the person
    issued_at timestamptz not null,           -- by the provider's clock, as the ID token's time is
    void_at   timestamptz not null
);
create index finished_logout_issuer on finished_logout (issuer, void_at);
