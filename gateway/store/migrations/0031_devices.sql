-- Devices that can be seen: what ingest has taken from each of them, written beside it. `title`: the name that its topic or payload gives it, where that
-- is no id; `source`: the topic template that it came by. They change with the configuration, not with samples.
alter table device add column title text, add column source text;
-- What a search looks through: made once, for a list of 100,000.
alter table device add column words text generated always as (lower(device_id || E'\n' || coalesce(title, ''))) stored;

-- Freshness only: a crash loses some seconds of it and nothing else. `metrics`: by name, the time (microseconds since the epoch) and the last value.
-- Room in the page, for a row changes as often as each five seconds, and no index but the key.
create table device_state (
    customer_id    text not null,
    device_id      text not null,
    last_seen_at   timestamptz not null,
    last_sample_at timestamptz not null,
    metrics        jsonb not null,
    primary key (customer_id, device_id),
    foreign key (customer_id, device_id) references device on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Of each metric the later value; of more than 1,024 names those that came last.
create function merge_device_metrics(held jsonb, given jsonb) returns jsonb language sql immutable as $$
    select jsonb_object_agg(name, entry)
    from (
        select name, entry from (
            select distinct on (name) name, entry
            from (select * from jsonb_each(held) union all select * from jsonb_each(given)) as both_of (name, entry)
            order by name, (entry->>0)::bigint desc
        ) as latest
        order by (entry->>0)::bigint desc, name
        limit 1024
    ) as kept
$$;
