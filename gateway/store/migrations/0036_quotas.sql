-- Messages that are dead letters are listed by source and reason, and tried again; what customers may send is bounded, and told where it is more.

-- `source`: the topic template that it came by, null where no source takes its topic (and of letters of before). `is_retained`: the broker had kept it, so
-- that nobody knows when it was measured.
alter table dead_letter add column source text, add column is_retained boolean not null default false;
create index dead_letter_message on dead_letter (dead_letter_id) where kind = 'message';
create index dead_letter_message_customer on dead_letter (customer_id, dead_letter_id) where kind = 'message';

-- What a customer's samples of a day take, about: counted as they are written. Days of before count from now on.
alter table customer_day add column bytes bigint not null default 0;

-- When the session of a client id was last up at a broker: what devices sent since then waits there, and is no flood.
create table ingest_up (
    client_id text not null,
    broker    text not null,
    up_at     timestamptz not null,
    primary key (client_id, broker)
);

-- A time in which a customer sent more than its quota: one row for each of its quotas, of the last such time. customer_id '': of what is nobody's.
create table quota_excess (
    customer_id    text not null,
    quota          text not null check (quota in ('messages_per_second', 'bytes_per_second', 'devices', 'metrics_per_device', 'stored_bytes')),
    allowed        double precision not null,
    device_id      text,
    since          timestamptz not null default now(),
    last_at        timestamptz not null default now(),
    ended_at       timestamptz,
    dead_letters   bigint not null,
    dropped        bigint not null,
    dropped_bytes  bigint not null,
    slowed_seconds double precision not null,
    primary key (customer_id, quota)
) with (fillfactor = 50);
create index quota_excess_open on quota_excess (customer_id, quota) where ended_at is null;

-- As merge_device_metrics of two, of at most `most` names.
create function merge_device_metrics(held jsonb, given jsonb, most int) returns jsonb language sql immutable as $$
    select jsonb_object_agg(name, entry)
    from (
        select name, entry from (
            select distinct on (name) name, entry
            from (select * from jsonb_each(held) union all select * from jsonb_each(given)) as both_of (name, entry)
            order by name, (entry->>0)::bigint desc
        ) as latest
        order by (entry->>0)::bigint desc, name
        limit most
    ) as kept
$$;
