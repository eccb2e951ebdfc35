-- Edge nodes of Sparkplug B as a host application knows them: what their births defined, so that a restart needs no rebirth, and how far each was read.
-- Written in the transaction that stores their samples. Times in milliseconds since the epoch, by the node's clock.

-- One row a node, changed by each commit that holds something of it: room in the page, and no index but the key.
create table sparkplug_node (
    customer_id text        not null,
    node        text        not null,
    bd_seq      bigint,
    next_seq    smallint,
    until       bigint      not null,
    gap_at      bigint,
    is_certain  boolean     not null,
    seen_at     timestamptz not null default now(),
    primary key (customer_id, node)
) with (fillfactor = 50);

-- `device` is empty for the node itself. `births`: [from, until, digest of its definitions], the last one with `until` null while it counts.
create table sparkplug_device (
    customer_id   text  not null,
    node          text  not null,
    device        text  not null,
    device_id     text  not null,
    births        jsonb not null,
    offline_since timestamptz,
    primary key (customer_id, node, device),
    foreign key (customer_id, node) references sparkplug_node on delete cascade
);
-- The registry of devices asks by id.
create index sparkplug_device_id on sparkplug_device (customer_id, device_id);

-- [name, alias, datatype] of each metric. Births that say the same share a row.
create table sparkplug_definitions (
    customer_id text  not null,
    node        text  not null,
    digest      text  not null,
    metrics     jsonb not null,
    primary key (customer_id, node, digest),
    foreign key (customer_id, node) references sparkplug_node on delete cascade
);
