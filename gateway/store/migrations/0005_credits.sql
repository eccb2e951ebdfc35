-- Connection credits: one pool for all customers, the credits that each connection has, and the ledger of every move.

-- One row decides. Until a daemon has said what the capacity is there is none, so nothing is held.
create table credit_pool (
    pool_id  smallint primary key default 1 check (pool_id = 1),
    capacity int not null default 0 check (capacity >= 0),
    held     int not null default 0 check (held >= 0),
    posted   int not null default 0 check (posted >= 0),   -- held + posted may exceed a capacity that was lowered
    quotas   jsonb not null default '{}'                    -- customer to the most that it may use
);
insert into credit_pool default values;

-- What a connection has of the pool; no row: nothing. A connection that has credits cannot be deleted.
create table connection_credit (
    connection_id text primary key references connection,
    customer_id   text not null,
    account       text not null check (account in ('held', 'posted')),
    amount        int not null check (amount >= 0),
    since         timestamptz not null default clock_timestamp()   -- in this account
);
create index connection_credit_customer on connection_credit (customer_id);

-- The ledger, double entry: each line takes from one account and gives to another. It outlives connections. The pool's row is locked
-- while a line is written, so transfer_id is the order of commits.
create table credit_transfer (
    transfer_id   bigint generated always as identity primary key,
    at            timestamptz not null default clock_timestamp(),
    kind          text not null,
    from_account  text not null,
    to_account    text not null,
    amount        int not null check (amount >= 0),
    connection_id text not null,
    customer_id   text not null,
    capacity      int not null,                                     -- of the pool at that moment: a hold had to fit it
    check ((kind, from_account, to_account) in (
        ('hold', 'available', 'held'), ('post', 'held', 'posted'), ('lapse', 'held', 'available'), ('return', 'held', 'available'), ('return', 'posted', 'available')
    ))
);
create index credit_transfer_connection on credit_transfer (connection_id, transfer_id);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: what is wrong in it is put right by another line', tg_table_name using errcode = 'restrict_violation';
end $$;
create trigger credit_transfer_append_only before update or delete or truncate on credit_transfer for each statement execute function refuse_change();

-- When a refusal was last told: of the pool ('') or of a customer's quota.
create table credit_refusal (
    customer_id text primary key,
    at          timestamptz not null default now()
);
