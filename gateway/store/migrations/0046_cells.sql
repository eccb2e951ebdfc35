-- A customer moves between gateways that are cells, each with a database of its own.

-- expected: its messages are taken here, and nothing else of it is here yet. arrived: it is in force here. leaving: about to be taken away.
-- left: nothing of it is worked on or taken here, and everything is kept until it is confirmed. gone: nothing of it is here.
-- What the configuration lists as customers is overruled by it. `move_id`: the move that it is about. `position`: where its log ended when the state began.
-- `is_whole`: of what left, whether it was in force here; else only what came while it was expected is of here. `cut`: of what left, where its log ended when the mark between the two gateways came; null where it is not known.
-- `is_kept`: what was in force of it when it left is kept aside, until it is in force again or forgotten.
-- `stood_`: of one that is leaving, what it was before, for when that is cancelled; null where it had never moved.
create table customer_move (
    customer_id text primary key,
    state       text not null check (state in ('expected', 'arrived', 'leaving', 'left', 'gone')),
    move_id     text not null,
    position    bigint not null,
    cut         bigint,
    is_whole    boolean not null default true,
    is_kept     boolean not null default false,
    since       timestamptz not null default now(),
    stood_state    text,
    stood_move     text,
    stood_position bigint
);

-- Marks that were seen among a customer's messages, each with where its log ended then: what was queued before it is committed.
create table customer_mark (
    customer_id text not null,
    topic       text not null,
    position    bigint not null,
    seen_at     timestamptz not null default now(),
    primary key (customer_id, topic)
);

-- Nobody writes to the log of a customer that left, whatever the process believes.
alter table customer_log add column is_frozen boolean not null default false;

-- Nor is a connection made for it: by a declaration, say, of a file that still names it. Nor one by a name that is kept of a customer that left, for its deliveries are kept by that name alone.
-- After the insert: one that waited for the name until the customer left sees that it did.
create function refuse_departed() returns trigger language plpgsql as $$
declare
    stage   text;
    is_kept boolean := false;
begin
    -- whoever takes the customer away locks this row first: the connection is either seen by it, or is not made
    select m.state into stage from customer_move m where m.customer_id = new.customer_id for share;
    if stage in ('left', 'gone') then
        raise exception 'customer % has moved to another gateway', new.customer_id using errcode = 'FG003';
    end if;
    -- the table is made when the first customer leaves
    if to_regclass('departed_connection') is not null then
        execute 'select exists (select from departed_connection where connection_id = $1 and customer_id <> $2)' into is_kept using new.connection_id, new.customer_id;
    end if;
    if is_kept then
        raise exception 'connection % is kept of a customer that has moved to another gateway: forget the customer first, or take another name', new.connection_id using errcode = 'FG003';
    end if;
    return new;
end $$;
create trigger connection_of_departed after insert on connection for each row execute function refuse_departed();
