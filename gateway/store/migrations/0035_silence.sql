-- Devices that fall silent, come back, or change what they send.

-- Up to when everything that came for a partition is known of its devices, and for how long (seconds in all) nothing was read there: `until_at` less `unheard`
-- is a clock that stands still while nobody listens. broke_at, resumed_at: the last time in which nobody did. A row for each partition of each number of partitions
-- that was configured.
create table heard (
    partitions int not null,
    partition  int not null,
    until_at   timestamptz not null,
    unheard    double precision not null,
    broke_at   timestamptz not null,
    resumed_at timestamptz not null,
    primary key (partitions, partition)
) with (fillfactor = 50);

-- unheard: of the device's partition when its last message came. interval_seconds: what is usual between two messages, made of `intervals`.
-- is_watched: whether its source and its customer were taken when it was looked at last; watched_at: since when, where it was not before.
-- due_at: when its silence is to be looked at. It moves only when it is past, so that a device that sends costs no index; null: silent, until it sends.
-- silent_since: the last message before it fell silent. version, told: of its retained document, and the one that the broker has.
alter table device_state
    add column unheard          double precision not null default 0,
    add column interval_seconds real,
    add column intervals        smallint not null default 0,
    add column is_watched       boolean not null default true,
    add column watched_at       timestamptz,
    add column due_at           timestamptz default now(),
    add column silent_since     timestamptz,
    add column version          int not null default 0,
    add column told             int not null default 0,
    add column changed_at       timestamptz;
create index device_state_due on device_state (due_at) where due_at is not null;
-- Silent ones are listed and counted from this alone; what the broker is to be told, in the order in which it changed, from the other.
create index device_state_silent on device_state (customer_id, device_id) where silent_since is not null;
create index device_state_untold on device_state (changed_at) where told <> version;

-- What the broker retains of devices, as retained_alert does for alerts.
create table retained_device (
    topic       text primary key,
    customer_id text not null,
    device_id   text not null,
    emptied_at  timestamptz
);
create index retained_device_emptied on retained_device (emptied_at) where emptied_at is not null;

-- Metrics of a known device that came, went or changed their kind. changes: by name, the kind it was told with and the one that it has ([null, "number"]: it
-- came), net of what was undone before it was told. gone: those that have vanished. due_at: when it is told; null: there is nothing to tell.
create table device_change (
    customer_id   text not null,
    device_id     text not null,
    changes       jsonb not null default '{}',
    gone          text[] not null default '{}',
    due_at        timestamptz,
    told_at       timestamptz,
    pause_seconds int not null default 0,
    primary key (customer_id, device_id),
    foreign key (customer_id, device_id) references device on delete cascade
);
create index device_change_due on device_change (due_at) where due_at is not null;

create function metric_kind(value jsonb) returns text language sql immutable as $$
    select case jsonb_typeof(value) when 'string' then 'text' else jsonb_typeof(value) end
$$;

-- Later changes on top of earlier ones; what is as it was is none. Of more than 256 names the first.
create function merge_metric_changes(held jsonb, given jsonb) returns jsonb language sql immutable as $$
    select coalesce(jsonb_object_agg(name, change), '{}')
    from (
        select name, jsonb_build_array(coalesce(h.change, g.change)->0, coalesce(g.change, h.change)->1) as change
        from jsonb_each(held) as h (name, change) full join jsonb_each(given) as g (name, change) using (name)
        order by name
        limit 256
    ) as merged
    where change->0 <> change->1
$$;
