-- Every push has an intent; what it may have left at a system is in doubt; batches have positions; partitions are attached, not created in place.

-- Windows of which the system may hold another value than the recorded one: a push was begun and nobody knows what became of it.
-- Such a window is never settled by comparison. `mark` tells a doubt from a later one of the same window.
create table delivery_doubt (
    connection_id text not null references connection on delete cascade,
    meter         text not null,
    window_start  timestamptz not null,
    value         jsonb not null,                    -- what was pushed last without a known outcome
    ask_at        timestamptz not null,              -- what is under way has arrived by then: neither asked nor sent before
    mark          xid8 not null default pg_current_xact_id(),
    primary key (connection_id, meter, window_start)
);

-- What was about to be sent by the process before this one.
insert into delivery_doubt (connection_id, meter, window_start, value, ask_at)
select i.connection_id, r.meter, r.window_start, r.value, i.sent_at + interval '1 minute'
from push_intent i
cross join lateral jsonb_to_recordset(i.readings) as r (meter text, window_start timestamptz, value jsonb)
on conflict do nothing;

-- The batch that is on its way, one for each stream, named by its position. Columns as arrays: a third of the size of objects, and cheap to write.
drop table push_intent;
create table push_intent (
    connection_id text not null,
    name          text not null,
    phase         text not null,
    position      bigint not null,
    fence         bigint not null,
    meters        text[] not null,
    window_starts timestamptz[] not null,
    "values"      text[] not null,                   -- as JSON
    sent_at       timestamptz not null,
    primary key (connection_id, name, phase),
    foreign key (connection_id, name, phase) references stream on delete cascade
);

-- The position that was given out last: a hybrid logical clock, for both phases of a connection, which write the same windows.
create table delivery_clock (
    connection_id text primary key references connection on delete cascade,
    position      bigint not null
);

-- A partition is made aside and attached: that waits for no reader or writer of the parent, and none waits for it.
create or replace function ensure_partition(parent text, day date) returns void language plpgsql as $$
declare
    child text := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
begin
    if to_regclass(child) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext('fieldgate.partition.' || child));
    if to_regclass(child) is not null then
        return;
    end if;
    execute format('create table %I (like %I including all)', child, parent);
    execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                   parent, child, (day::timestamp at time zone 'UTC'), ((day + 1)::timestamp at time zone 'UTC'));
exception when duplicate_table then
    null;
end $$;
